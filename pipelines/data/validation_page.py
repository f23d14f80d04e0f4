"""Page of the validation report: one file that needs nothing else. A module, so that a step's key covers it."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Validation of {{ result.model }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { border-left: 6px solid; padding: .6rem 1rem; margin: 1rem 0; border-radius: 4px; }
.verdict.passed { background: #e9f6ee; border-color: #1f8a4c; }
.verdict.failed { background: #fcebea; border-color: #c0342b; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid #d5dbe1; }
td { border-bottom: 1px solid #e6eaee; }
.columns td:nth-child(n+3), .columns th:nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums; }
code, .value { font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
.badge { display: inline-block; min-width: 4.2rem; text-align: center; border-radius: 3px; font-size: 12px;
  padding: .1rem .4rem; color: #fff; }
.badge.passed { background: #1f8a4c; }
.badge.critical { background: #c0342b; }
.badge.warning { background: #b06a00; }
.badge.info { background: #4a6b8a; }
.muted { color: #66727e; }
.inner td { border: 0; padding: .1rem .6rem .1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 1rem 0; }
dt { color: #66727e; }
dd { margin: 0; }
</style>
</head>
<body>
<h1>Validation of {{ result.model }}</h1>
<div class="verdict {{ 'passed' if result.passed else 'failed' }}">
{% if result.passed %}
<strong>Accepted.</strong> No critical expectation failed.
{% else %}
<strong>Refused.</strong> {{ result.num_failed.critical }} critical expectation(s) failed:
nothing is trained on this data.
{% endif %}
Failed with severity warning: {{ result.num_failed.warning }}; info: {{ result.num_failed.info }}.
</div>
<dl>
<dt>Source</dt><dd><code>{{ result.source }}</code>, {{ files }} file(s)</dd>
<dt>Rows</dt><dd>{{ "{:,}".format(result.num_rows) }}</dd>
<dt>sha256 of the source</dt><dd><code>{{ result.source_digest }}</code></dd>
</dl>
<h2>Expectations</h2>
<table>
<tr><th>Outcome</th><th>Expectation</th><th>Column</th><th>Limit</th><th>Observed</th></tr>
{% for outcome, rows in outcomes %}
{% set word = 'passed' if outcome.passed else outcome.severity.value %}
<tr>
<td><span class="badge {{ word }}">{{ word }}</span></td>
<td><code>{{ outcome.type }}</code>
{% if outcome.passed %}
<span class="muted">({{ outcome.severity.value }})</span>
{% endif %}
</td>
<td>{{ outcome.columns }}</td>
<td class="value">{{ outcome.limit }}</td>
<td>{{ outcome.observed }}
{% if outcome.error %}
<div class="value">{{ outcome.error }}</div>
{% endif %}
</td>
</tr>
{% if rows %}
<tr><td></td><td colspan="4"><table class="inner">
{% for row in rows %}
<tr><td class="value">{{ row.value }}</td><td><code>{{ row.id }}</code></td><td class="muted">{{ row.origin }}</td></tr>
{% endfor %}
{% if outcome.num_failed_rows > rows | length %}
<tr><td class="muted" colspan="3">
{{ rows | length }} of {{ outcome.num_failed_rows }} rows; quarantine.parquet holds {{ outcome.sample | length }}
</td></tr>
{% endif %}
</table></td></tr>
{% endif %}
{% endfor %}
</table>
<h2>Columns</h2>
<table class="columns">
<tr>
<th>Column</th><th>Type</th><th>Missing</th><th>Distinct</th><th>Smallest</th><th>Mean</th><th>Largest</th>
</tr>
{% for column in columns %}
<tr>
<td><code>{{ column.name }}</code></td><td>{{ column.type }}</td><td>{{ column.missing }}</td>
<td>{{ column.distinct }}</td><td>{{ column.min }}</td><td>{{ column.mean }}</td><td>{{ column.max }}</td>
</tr>
{% endfor %}
</table>
</body>
</html>
"""
