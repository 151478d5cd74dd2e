"""bench/gmac.py counts what the layers say, and its table adds up."""

import gmac
import pytest
from torch import nn

# Thousands of millions at 1440, from the layer sizes of the released configuration: 3x3 convolutions of SPADE at S/16
# (twice), S/8, S/4; expand and project; and so on.
AT_1440 = {"pose": 0.0, "spade": 22.54, "pointwise": 26.55, "depthwise": 1.92, "tail": 1.31, "motion": 10.75}


def test_plain_networks_multiply_what_their_sizes_say():
    counts = gmac.plain(1440)
    assert {kind: round(count / 1e9, 2) for kind, count in counts.items()} == AT_1440
    tail = 1440**2 * (8 * 9 + 8 * 16 + 16 * 3 * 9)
    assert counts["tail"] == tail


def test_every_layer_of_the_step_is_counted_once():
    found = gmac.calls(64, (nn.Conv2d, nn.ConvTranspose2d))
    names = [call.name for call in found]
    assert len(set(names)) == len(names)
    assert not any(".en_" in name or "src_" in name for name in names)
    field_head = next(call for call in found if call.name == "motion.model2_3")
    assert field_head.multiplications == 16**2 * 16 * 2 * 9
    pose = next(call for call in found if call.name.endswith("drv_headpose_encoder.embedding_module2.0"))
    assert pose.multiplications == 4**2 * 64 * 32 * 4 * 4


def test_the_inference_form_multiplies_less():
    before, after = gmac.plain(512), gmac.inference_form(512)
    assert gmac.table_row(512, before, after)["size"] == "512"
    for kind, share in (("spade", 0.52), ("pointwise", 0.99), ("depthwise", 1), ("tail", 0.4), ("motion", 0.74)):
        assert after[kind] <= share * before[kind]
    assert after["pose"] == before["pose"]


def test_table_row_adds_up():
    before = {kind: (i + 1) * 10**9 for i, kind in enumerate(gmac.COLUMNS)}
    after = {kind: count // 2 for kind, count in before.items()}
    row = gmac.table_row(1440, before, after)
    assert row["size"] == "1440 (motion at 1472)"
    assert row["SPADE"] == "3.00 → 1.50"
    assert row["motion"] == "6.00 → 3.00"
    assert (row["all"], row["fewer"]) == ("21.00 → 10.50", "2.00 x")
    with pytest.raises(ValueError, match="counts must be of pose, spade"):
        gmac.table_row(1440, before, {"motion": 1})
