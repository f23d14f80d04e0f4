"""Services, one for each kind of task; a packaged model brings the service that answers for it."""
