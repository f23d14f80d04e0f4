"""The report's page: one self-contained HTML file."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {{ model }}</title>
<style>{{ style_sheet|safe }}</style>
</head>
<body><main>
<header>
  <div>
    <h1>{{ model }}: evaluation</h1>
    <p>{{ "{:,}".format(summary.num_documents) }} held-out documents,
       {{ "{:,}".format(summary.num_tokens) }} tokens, {{ "{:,}".format(summary.num_bytes) }} bytes</p>
  </div>
  <span class="badge {{ 'passed' if summary.passed else 'refused' }}">
    {{- 'all gates passed' if summary.passed else 'refused' -}}
  </span>
</header>

<section class="tiles">
{%- for title, estimate, note in tiles %}
  <div class="card tile"><span>{{ title }}</span><b>{{ "%.4g"|format(estimate.value) }}</b>
    <small>{{ "%g"|format(estimate.confidence * 100) }} % CI {{ "%.4g"|format(estimate.low) }} to
      {{ "%.4g"|format(estimate.high) }}<br>{{ note }}</small></div>
{%- endfor %}
</section>

<h2>Gates</h2>
<div class="card"><table>
  <tr><th>Gate</th><th>Verdict</th><th class="number">Observed</th><th class="number">Interval</th>
      <th class="number">Limit</th></tr>
  {%- for gate in summary.gates %}
  <tr>
    <td>{{ gate.name }}<div class="evidence">{{ gate.evidence }}</div></td>
    <td class="verdict {{ 'good' if gate.passed else 'bad' }}">{{ 'passed' if gate.passed else 'refused' }}</td>
    <td class="number">{{ "%.4g"|format(gate.observed.value) }}</td>
    <td class="number">{{ "%.4g"|format(gate.observed.low) }} to {{ "%.4g"|format(gate.observed.high) }}</td>
    <td class="number">{{ "%.4g"|format(gate.limit) }}</td>
  </tr>
  {%- endfor %}
</table></div>
<p>A gate passes when the upper end of the interval is at most the limit.
{%- if summary.champion_difference is none %} There is no model in production to compare with.{% endif %}</p>

{%- for title, drawing in plots %}
<h2>{{ title }}</h2>
<div class="card">{{ drawing|safe }}</div>
{%- endfor %}

<h2>Samples</h2>
<div class="card">
{%- for sample in summary.samples %}
  <div class="sample"><span class="evidence">
    {{- 'most likely answer' if sample.temperature == 0 else 'sampled at temperature %g'|format(sample.temperature) -}}
  </span><pre><mark>{{ sample.prompt }}</mark>{{ sample.answer }}</pre></div>
{%- endfor %}
</div>

<h2>Hardest documents</h2>
<div class="card"><table>
  <tr><th>Document</th><th class="number">Tokens</th><th class="number">Perplexity</th>
      <th class="number">Unigram baseline</th></tr>
  {%- for row in hardest %}
  <tr><td><code>{{ row.id }}</code></td><td class="number">{{ row.num_tokens }}</td>
      <td class="number">{{ "%.4g"|format(row.perplexity) }}</td>
      <td class="number">{{ "%.4g"|format(row.baseline) }}</td></tr>
  {%- endfor %}
</table></div>

<h2>Inputs</h2>
<div class="card"><table>
  {%- for name, digest in inputs.items() %}
  <tr><td>{{ name }}</td><td><code>{{ digest }}</code></td></tr>
  {%- endfor %}
</table></div>
</main></body>
</html>
"""
"""Every value is escaped but the plots and the style sheet, which are our own."""
