"""The machine form of traffic, as `simulate --json` prints it."""

from __future__ import annotations

from sim.traffic.found import Matrix, Traffic


def traffic_json(found: Traffic) -> dict[str, object]:
    """Traffic as JSON values: bytes, bytes/s, seconds; a matrix as [from, to, bytes] of the pairs
    that send, by the places of their labels."""
    return {
        "devices": found.num_devices,
        "sent_bytes": found.sent_bytes,
        "sent_bytes_per_device": found.sent_bytes / found.num_devices,
        "near_share": found.near_share,
        "flows": {
            flow: {
                "bytes": num_bytes,
                "in_node_bytes": None if found.node_bytes is None else found.node_bytes[flow],
            }
            for flow, num_bytes in found.total_bytes.items()
        },
        "ranks": [dict(flows) for flows in found.rank_bytes],
        "links": [
            {
                "link": link.link,
                "bandwidth_bytes_per_s": link.bandwidth_bytes_per_s,
                "busiest": link.busiest,
                "busiest_bytes": link.busiest_bytes,
                "mean_bytes": link.mean_bytes,
                "utilisation": link.utilisation,
                "flows": dict(link.flows),
            }
            for link in found.links
        ],
        "matrix": _matrix_json(found.matrix),
    }


def _matrix_json(matrix: Matrix) -> dict[str, object]:
    return {
        "ends": matrix.ends,
        "labels": list(matrix.labels),
        "about": list(matrix.about),
        "shown": matrix.shown,
        "of": matrix.of,
        "note": matrix.note,
        "flows": {
            flow: [
                [source, target, num_bytes]
                for source, row in enumerate(rows)
                for target, num_bytes in enumerate(row)
                if num_bytes
            ]
            for flow, rows in matrix.flows.items()
        },
    }
