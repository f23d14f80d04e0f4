"""The report's page: one self-contained HTML file."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training of {{ model }}</title>
<style>{{ style_sheet|safe }}</style>
</head>
<body><main>
<header>
  <div>
    <h1>{{ model }}: training</h1>
    <p>{{ subtitle }}</p>
  </div>
</header>

<section class="tiles">
{%- for title, value, note in tiles %}
  <div class="card tile"><span>{{ title }}</span><b>{{ value }}</b><small>{{ note }}</small></div>
{%- endfor %}
</section>

{%- for title, drawing in curves %}
<h2>{{ title }}</h2>
<div class="card">{{ drawing|safe }}</div>
{%- endfor %}
<p>Of {{ num_readings }} readings; dashed lines: interruptions.</p>

<h2>Restarts and incidents</h2>
<div class="card">
{%- if interruptions or events %}
<table>
  <tr><th class="number">After step</th><th>What</th></tr>
  {%- for pause in interruptions %}
  <tr><td class="number">{{ "{:,}".format(pause.after_step) }}</td>
      <td>{{ "%.1f"|format(pause.seconds) }} s without training: lost work and the start of the ranks</td></tr>
  {%- endfor %}
  {%- for event in events %}
  <tr><td class="number">{{ "{:,}".format(event.step) }}</td>
      <td>{{ event.kind.value }}<div class="evidence"><code>{{ event.text }}</code></div></td></tr>
  {%- endfor %}
</table>
{%- else %}
<p>None: trained in one go.</p>
{%- endif %}
</div>

<h2>Plan and outcome</h2>
<div class="card">
{%- if compared %}
<table>
  <tr><th></th><th>Plan</th><th>Outcome</th></tr>
  {%- for name, planned, outcome in compared %}
  <tr><td>{{ name }}</td><td>{{ planned }}</td><td>{{ outcome }}</td></tr>
  {%- endfor %}
</table>
{%- else %}
<p>There was no plan: <code>python -m pipelines plan</code> makes one.</p>
{%- endif %}
</div>

{%- for title, rows in tables %}
<h2>{{ title }}</h2>
<div class="card"><table>
  {%- for name, value in rows %}
  <tr><td>{{ name }}</td><td><code>{{ value }}</code></td></tr>
  {%- endfor %}
</table></div>
{%- endfor %}
</main></body>
</html>
"""
"""Every value is escaped but the drawings and the style sheet, which are our own."""
