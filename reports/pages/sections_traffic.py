"""The section on traffic: who sends what to whom, and how busy that keeps the links."""

from __future__ import annotations

from reports import tables, words
from reports.pages import charts_traffic
from reports.pages.charts_traffic import FLOW_COLORS, FLOW_NAMES
from reports.pages.sections import Figure, Legend, Section
from reports.tables import Cell, Table
from sim.prediction import Prediction
from sim.traffic.found import Flow, LinkUse, Matrix, Traffic
from sim.traffic.link_use import IN_NODE

MAX_PAIRS = 12
"""Pairs in their table, those that send most."""


def traffic_section(prediction: Prediction, traffic: Traffic) -> Section:
    """The communication matrix, what each rank sends, the use of links, and their numbers."""
    name, topic = "traffic", "Communication"
    if not traffic.sent_bytes:
        return Section(name=name, topic=topic, claim=claim(traffic), reading="")
    drawn = charts_traffic.matrix_flows(traffic.matrix)
    shown = _ends(traffic.matrix)
    figures: list[Figure] = []
    if drawn:
        figures.append(
            Figure(
                name="traffic-matrix",
                title=f"Bytes from each {shown} to each (simulated)",
                data=charts_traffic.matrix_chart(traffic.matrix, drawn, 430),
                note=traffic.matrix.note,
                half=True,
            )
        )
    figures.append(
        Figure(
            name="traffic-ranks",
            title="What a device of each pipeline rank sends (simulated)",
            data=charts_traffic.rank_chart(traffic),
            note="Without the gradient norm’s few bytes."
            if "gradient_norm" in traffic.total_bytes
            else "",
            legend=_legend(charts_traffic.drawn_flows(traffic)),
            half=True,
        )
    )
    figures += [
        Figure(
            name=f"traffic-matrix-{flow}",
            title=f"Of these, {FLOW_NAMES[flow]} (simulated)",
            data=charts_traffic.matrix_chart(traffic.matrix, (flow,), 340),
            half=True,
        )
        for flow in charts_traffic.mapped_flows(traffic.matrix)
    ]
    if traffic.links:
        figures.append(
            Figure(
                name="traffic-links",
                title="The busiest link of each kind (simulated)",
                data=charts_traffic.link_chart(traffic),
                legend=_legend(charts_traffic.drawn_flows(traffic)),
                half=len(figures) % 2 == 1,
            )
        )
    found = [flow_table(traffic)]
    if traffic.links:
        found.append(link_table(traffic))
    if drawn:
        found.append(pair_table(traffic.matrix))
    return Section(
        name=name,
        topic=topic,
        claim=claim(traffic),
        reading=_reading(prediction, traffic, bool(drawn)),
        figures=tuple(figures),
        tables=tuple(found),
    )


def claim(traffic: Traffic) -> str:
    """How much a device sends, how far it goes, and how busy the links out of the node are."""
    if not traffic.sent_bytes:
        return "Nothing is sent: each device works alone"
    each = words.size(traffic.sent_bytes / traffic.num_devices)
    near = traffic.near_share
    if near is None:
        return (
            f"A device sends {each} in an iteration; where it sits is not known without a cluster"
        )
    outside = [link for link in traffic.links if link.link != IN_NODE]
    if not outside:
        (inside,) = traffic.links
        return (
            f"A device sends {each} in an iteration, all within its node, whose busiest link "
            f"carries {words.percent(inside.utilisation)} of what it could"
        )
    card = outside[0]
    start = f"Of {each} that a device sends in an iteration, {words.percent(near)} stay in its node"
    if not card.busiest_bytes:
        return f"{start}; the network cards are idle"
    return (
        f"{start}; the busiest network card carries {words.percent(card.utilisation)} of what it "
        f"could, mostly {FLOW_NAMES[_most(card)]}"
    )


def _reading(prediction: Prediction, traffic: Traffic, has_matrix: bool) -> str:
    """How to read the charts."""
    matrix, plan = traffic.matrix, prediction.scenario.plan
    parts = []
    if has_matrix:
        text = (
            f"A cell is what its row’s {matrix.ends} sends to its column’s in an iteration: the "
            "stronger its shade the more, each shade from the bytes above the scale on"
        )
        if matrix.ends == "node":
            text += "; on the diagonal is what stays within a node"
        if matrix.ends == "rank":
            text += "; on the diagonal is what the copies of a rank send one another"
        parts.append(f"{text}.")
    if matrix.ends != "rank":
        where = f"plan’s placement ({plan.placement}, innermost first) puts them"
        where = where if plan.devices is None else "plan’s devices say"
        parts.append(f"Ranks sit where the {where}.")
    parts.append("They send by the algorithms that the simulated times assume.")
    if traffic.links:
        parts.append(
            "A link’s use is its bytes over what its bandwidth could carry in the whole iteration: "
            "one of small use may still be what ranks wait for."
        )
    return " ".join(parts)


def flow_table(traffic: Traffic) -> Table:
    """What is sent, by flow; sums to everything."""
    rows: list[tuple[Cell, ...]] = []
    near = traffic.node_bytes
    ordered = sorted(traffic.total_bytes.items(), key=lambda item: -item[1])
    for flow, num_bytes in ordered:
        at = f"traffic.flows.{flow}"
        rows.append(
            (
                tables.text(FLOW_NAMES[flow]),
                tables.memory(num_bytes, f"{at}.bytes"),
                _size(num_bytes / traffic.num_devices),
                tables.share(num_bytes / traffic.sent_bytes),
                *(
                    (
                        tables.memory(near[flow], f"{at}.in_node_bytes"),
                        tables.share(near[flow] / num_bytes),
                    )
                    if near is not None
                    else ()
                ),
            )
        )
    rows.append(
        (
            tables.text("sum"),
            tables.memory(traffic.sent_bytes, "traffic.sent_bytes"),
            _size(traffic.sent_bytes / traffic.num_devices, "traffic.sent_bytes_per_device"),
            tables.share(1.0),
            *(
                (
                    tables.memory(sum(near.values())),
                    tables.share(traffic.near_share, "traffic.near_share"),
                )
                if near is not None
                else ()
            ),
        )
    )
    columns = ("What", "All devices", "A device", "Share")
    apart = ("Within nodes", "Share of it") if near is not None else ()
    return Table(
        caption="What is sent in an iteration (simulated)",
        columns=(*columns, *apart),
        rows=tuple(rows),
    )


def link_table(traffic: Traffic) -> Table:
    """Every kind of link: its bandwidth, the busiest, and what it carries."""
    rows = tuple(
        (
            tables.text(link.link),
            _rate(link, f"traffic.links.{i}"),
            tables.text(link.busiest or words.UNKNOWN),
            tables.memory(link.busiest_bytes, f"traffic.links.{i}.busiest_bytes"),
            _size(link.mean_bytes, f"traffic.links.{i}.mean_bytes"),
            tables.share(link.utilisation, f"traffic.links.{i}.utilisation"),
            tables.text(FLOW_NAMES[_most(link)] if link.flows else words.UNKNOWN),
        )
        for i, link in enumerate(traffic.links)
    )
    columns = ("Link", "One way", "Busiest", "It carries", "On average", "In use", "Mostly")
    return Table(caption="Use of the links (simulated)", columns=columns, rows=rows)


def pair_table(matrix: Matrix) -> Table:
    """The pairs of ends that send most."""
    flows = charts_traffic.matrix_flows(matrix)
    size = range(len(matrix.labels))
    pairs = [
        (sum(matrix.flows[flow][i][j] for flow in flows), i, j)
        for i in size
        for j in size
        if any(matrix.flows[flow][i][j] for flow in flows)
    ]
    pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
    rows = []
    for num_bytes, i, j in pairs[:MAX_PAIRS]:
        most = max(flows, key=lambda flow: matrix.flows[flow][i][j])
        rows.append(
            (
                Cell(text=matrix.labels[i], value=int(matrix.labels[i])),
                Cell(text=matrix.labels[j], value=int(matrix.labels[j])),
                tables.memory(num_bytes),
                tables.text(FLOW_NAMES[most]),
            )
        )
    kind = matrix.ends
    caption = (
        f"Who sends most to whom: {len(rows)} of {words.plural(len(pairs), 'pair')} of {kind}s"
    )
    return Table(
        caption=f"{caption} (simulated)",
        columns=(f"From {kind}", f"To {kind}", "Sent", "Mostly"),
        rows=tuple(rows),
        fold=True,
    )


def _most(link: LinkUse) -> Flow:
    return max(link.flows, key=lambda flow: link.flows[flow])


def _size(num_bytes: float, figure: str | None = None) -> Cell:
    return Cell(text=words.size(num_bytes), value=num_bytes, figure=figure)


def _rate(link: LinkUse, at: str) -> Cell:
    rate = link.bandwidth_bytes_per_s
    shown = f"{words.significant(rate / 1e9)}{words.NBSP}GB/s"
    return Cell(text=shown, value=rate, figure=f"{at}.bandwidth_bytes_per_s")


def _legend(flows: tuple[Flow, ...]) -> Legend:
    return tuple((FLOW_COLORS[flow], FLOW_NAMES[flow]) for flow in flows)


def _ends(matrix: Matrix) -> str:
    return "pipeline rank" if matrix.ends == "rank" else matrix.ends
