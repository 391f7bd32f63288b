"""Every number of a row by a name, for bars, curves and means."""

from sunlab.evaluation.rows import Row


def measures_of(row: Row) -> dict[str, float]:
    """`paired_l2`, `kid_x1000`, ...: values; `paired_l2.share`: as a share of the distance to the teacher's other seeds;
    `paired_l2.nearer`: share of pairs nearer to the teacher than the guided variant of as many passes; `clip_score`, ...:
    alignment; `control.background`, ...: suppressed, as a share of the teacher's; `speedup`; `limit`: the same of the bare
    U-Net passes."""
    found: dict[str, float] = {}
    for name, value in row.values.items():
        found[name] = value.value
        if value.paired:
            found[f"{name}.share"] = value.share
    found |= {f"{name}.nearer": beside.nearer for name, beside in row.against.items()}
    found |= {name: value.value for name, value in row.alignment.items()}
    found |= {f"control.{name}": share for name, share in row.control_shares.items()}
    return {**found, "speedup": row.speedup, "limit": row.limit}
