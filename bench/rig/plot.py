"""The plot: requests per second as a bar chart for each number of connections, on light and dark backgrounds."""

from html import escape

WIDTH, LABELS, ROW, PANEL = 900, 340, 22, 46
COLOURS = {"notch": "#d9480f", "limit": "#868e96", "nginx": "#ced4da", "tool": "#ced4da", "peer": "#4c8bb8"}
STYLE = """text { font: 13px system-ui, sans-serif; fill: #212529 }
.title { font-weight: 600; font-size: 15px }
.small { font-size: 11px; fill: #6c757d }
@media (prefers-color-scheme: dark) { text { fill: #e9ecef } .small { fill: #adb5bd } }"""


def panel(rows, top, title):
    """`rows` of label, kind, rate and p99, the fastest first."""
    most = max(rate for _, _, rate, _ in rows)
    space = WIDTH - LABELS - 170
    yield f'<text class="title" x="0" y="{top + 20}">{escape(title)}</text>'
    for index, (label, kind, rate, p99) in enumerate(rows):
        y = top + PANEL - 12 + index * ROW
        width = max(1, rate / most * space)
        weight = ' font-weight="600"' if kind == "notch" else ""
        yield f'<text x="{LABELS - 8}" y="{y + 13}" text-anchor="end"{weight}>{escape(label)}</text>'
        yield f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{ROW - 5}" fill="{COLOURS[kind]}"/>'
        yield f'<text x="{LABELS + width + 6:.1f}" y="{y + 13}">{rate:,.0f}' \
              f'<tspan class="small" dx="8">p99 {p99:.2f} ms</tspan></text>'


def plot(results, path, note):
    """Writes the plot of the main scenario, only of subjects with one request per write."""
    parts, top = [], 0
    for count in sorted({case.connections for case in results.cases("main")}):
        rows = [(case.subject.label.replace("`", ""), case.subject.kind, results.median("main", case, "rate"),
                 results.median("main", case, "p99"))
                for case in results.cases("main") if case.connections == count
                and case.subject.name != "tool/redis-benchmark-16"]
        rows.sort(key=lambda row: -row[2])
        parts += panel(rows, top, f"visits per second, {count} keep-alive connections")
        top += PANEL + len(rows) * ROW
    parts.append(f'<text class="small" x="0" y="{top + 14}">{escape(note)}</text>')
    top += 24
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
                    f'height="{top}">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n")
