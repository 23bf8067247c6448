"""Parts of dashboards: rows, panels and the choices at their top, as Grafana's JSON has them. Placed from left to right, top down."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
# What every expression is narrowed by, written as HERE in expressions.
HERE = 'namespace=~"$namespace",instance=~"$instance"'
WELL, ILL, LATE = "green", "red", "orange"


def choice(name, label, metric):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "query": f"label_values({metric}, {name})",
            "definition": f"label_values({metric}, {name})", "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"}}


def choices(metric):
    return [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            choice("namespace", "Namespace", metric),
            choice("instance", "Server", metric + '{namespace=~"$namespace"}')]


def targets(queries):
    """(expression, legend) each; a bare string is an expression whose series are told by their server."""
    pairs = [(query, "{{instance}}") if isinstance(query, str) else query for query in queries]
    return [{"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": expression.replace("HERE", HERE), "legendFormat": legend}
            for at, (expression, legend) in enumerate(pairs)]


def steps(thresholds):
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in thresholds]}


def panel(kind, title, said, width, height, unit, queries, thresholds, options):
    defaults = {"unit": unit, "thresholds": steps(thresholds)}
    return {"type": kind, "title": title, "description": said, "datasource": DATASOURCE, "targets": targets(queries),
            "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options, "size": (width, height)}


def stat(title, said, query, bad_from=None, bad_below=None, unit="none", width=4):
    """One number, red from, or below, a value."""
    thresholds = [(None, WELL)]
    if bad_from is not None:
        thresholds = [(None, WELL), (bad_from, ILL)]
    if bad_below is not None:
        thresholds = [(None, ILL), (bad_below, WELL)]
    options = {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return panel("stat", title, said, width, 4, unit, [(query, "")], thresholds, options)


def graph(title, said, *queries, unit="short", width=8, least=0, limit=None):
    """Lines over time; `limit` is where it is too much."""
    thresholds = [(None, WELL)] + ([(limit, ILL)] if limit is not None else [])
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    drawn = panel("timeseries", title, said, width, 8, unit, queries, thresholds, options)
    drawn["fieldConfig"]["defaults"].update(min=least, custom={"lineWidth": 1, "fillOpacity": 5,
                                                               "thresholdsStyle": {"mode": "line" if limit is not None else "off"}})
    return drawn


def table(title, said, query, width=12):
    drawn = panel("table", title, said, width, 8, "none", [(query, "")], [(None, WELL)], {"showHeader": True})
    drawn["targets"][0].update(format="table", instant=True)
    hidden = {name: True for name in ("Time", "Value", "__name__", "job")}
    drawn["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return drawn


def quantiles(metric, by="instance", at=(0.5, 0.99), more=""):
    """Lines of quantiles of a histogram."""
    return [(f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{HERE{more}}}[$__rate_interval])))",
             f"p{int(q * 100)} {{{{{by}}}}}") for q in at]


def rate(counter, by="instance", more=""):
    return (f"sum by ({by}) (rate({counter}{{HERE{more}}}[$__rate_interval]))", f"{{{{{by}}}}}")


def dashboard(uid, title, said, metric, rows):
    """Rows are (title, panels)."""
    placed, top, number = [], 0, 1
    for name, row in rows:
        placed.append({"type": "row", "id": number, "title": name, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
        top, left, tallest, number = top + 1, 0, 0, number + 1
        for part in row:
            width, height = part.pop("size")
            if left + width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            placed.append({"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **part})
            left, tallest, number = left + width, max(tallest, height), number + 1
        top += tallest
    return {"uid": uid, "title": title, "description": said, "tags": ["geminga"], "schemaVersion": 39, "version": 1, "editable": True,
            "timezone": "browser", "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "templating": {"list": choices(metric)},
            "links": [{"type": "dashboards", "title": "Geminga", "tags": ["geminga"], "asDropdown": False, "keepTime": True,
                       "includeVars": True}],
            "annotations": {"list": []}, "panels": placed}
