"""The report's page: one self-contained HTML file."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {{ model }}</title>
<style>
  :root { --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --soft: #f9fafb; --good: #15803d; --bad: #b91c1c; }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--soft); color: var(--ink); line-height: 1.5;
         font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
  header { display: flex; justify-content: space-between; align-items: start; gap: 1rem; }
  h1 { margin: 0; font-size: 1.6rem; }
  h2 { margin: 2.5rem 0 .75rem; font-size: 1.1rem; }
  p { margin: .25rem 0; color: var(--muted); }
  .badge { padding: .3rem .9rem; border-radius: 999px; color: white; font-weight: 600; white-space: nowrap; }
  .passed { background: var(--good); } .refused { background: var(--bad); }
  .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .75rem;
           margin-top: 1.5rem; }
  .card { background: white; border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; }
  .tile b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; line-height: 1.25; }
  .tile span, .tile small { color: var(--muted); font-size: .85rem; }
  .card svg { display: block; width: 100%; height: auto; font-family: inherit; }
  table { width: 100%; border-collapse: collapse; }
  th { text-align: left; color: var(--muted); font-weight: 500; font-size: .85rem; }
  th, td { padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
  tr:last-child td { border-bottom: 0; }
  td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  td.verdict { font-weight: 600; white-space: nowrap; } .good { color: var(--good); } .bad { color: var(--bad); }
  .evidence { color: var(--muted); font-size: .85rem; }
  pre { margin: .5rem 0 0; padding: .75rem; background: var(--soft); border-radius: .4rem; white-space: pre-wrap;
        overflow-wrap: anywhere; font-size: .85rem; }
  pre mark { background: none; color: var(--muted); }
  .sample + .sample { margin-top: .75rem; }
  code { overflow-wrap: anywhere; font-size: .85rem; }
</style>
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
"""Every value is escaped but the plots, which are our own drawings."""
