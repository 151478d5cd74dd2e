"""The fragments of csrc/substrate/mma.h: matrices multiplied on the host by the lanes that multiply them on a GPU."""

import ctypes
import shutil
import subprocess

import pytest
import torch
from host_emulation import build

from fastreenact.ops import nvrtc
from fastreenact.ops.packing import pack_fragments, unpack_fragments

# One warp. Values are floats throughout: where a value lies is what is tested, not how it is rounded. ldmatrix and mma
# are written as the PTX ISA has them, apart from the index functions.
WARP = """
#include <cstring>
#include "substrate/mma.h"
using namespace fastreenact;

// d [16, 8 * tiles] += a [16, 16 * steps] times packed weights.
extern "C" void product_16bit(const float* a, const float* weights, float* d, int steps, int tiles) {
    const int depth = steps * kTileK, columns = tiles * kTileN;
    for (int step = 0; step < steps; ++step) {
        float registers[32][4][2];
        for (int lane = 0; lane < 32; ++lane) {
            const float* at = a + matrix_row(lane) * depth + step * kTileK + matrix_k(lane);
            for (int i = 0; i < 8; ++i) registers[lane % 8 * 4 + i / 2][lane / 8][i % 2] = at[i];
        }
        for (int n = 0; n < tiles; ++n) {
            float left[16][16], right[16][8];
            for (int lane = 0; lane < 32; ++lane) {
                for (int reg = 0; reg < 4; ++reg) {
                    for (int which = 0; which < 2; ++which) {
                        left[a_row(lane, reg)][a_k(lane, reg, which)] = registers[lane][reg][which];
                    }
                }
                const float* chunk = weights + int64_t(n / 2 * steps + step) * kBlockWeights + lane * 8;
                for (int reg = 0; reg < 2; ++reg) {
                    for (int which = 0; which < 2; ++which) {
                        right[b_k(lane, reg, which)][b_column(lane)] = chunk[n % 2 * 4 + reg * 2 + which];
                    }
                }
            }
            for (int lane = 0; lane < 32; ++lane) {
                for (int value = 0; value < 4; ++value) {
                    const int row = d_row(lane, value), column = d_column(lane, value);
                    float& sum = d[row * columns + n * kTileN + column];
                    for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
                }
            }
        }
    }
}

extern "C" void pack(const float* weight, float* packed, int outputs, int inputs, int is_float32) {
    for (int n = 0; n < outputs; ++n) {
        for (int k = 0; k < inputs; ++k) {
            packed[packed_index(is_float32, n, k, (inputs + kTileK - 1) / kTileK)] = weight[n * inputs + k];
        }
    }
}

extern "C" int pitch(int bytes) {
    return row_pitch(bytes);
}
"""
PLANTS = [
    ("substrate/mma.h", "lane % 4 * 2 + reg / 2 * 8 + which", "lane % 4 * 2 + reg / 2 * 8 + 1 - which"),
    ("substrate/mma.h", "lane / 4 + reg % 2 * 8", "lane / 4 + reg / 2 * 8"),
    ("substrate/mma.h", "return lane / 16 * 8;", "return lane / 8 % 2 * 8;"),
    ("substrate/mma.h", "in_n / kTileN * 4 + in_k / 8 * 2", "in_n / kTileN * 2 + in_k / 8 * 4"),
]


def pointer(tensor):
    return ctypes.cast(tensor.data_ptr(), ctypes.POINTER(ctypes.c_float))


def product(library, generator, outputs, inputs, plant=None):
    """[16, inputs] by [inputs, outputs] through the lanes, and plainly."""
    steps, tiles = -(-inputs // 16), -(-outputs // 8)
    weight = torch.randint(-8, 9, (outputs, inputs), generator=generator).float()
    a = torch.zeros(16, steps * 16)
    a[:, :inputs] = torch.randint(-8, 9, (16, inputs), generator=generator)
    packed = torch.zeros(-(-outputs // 16), steps, 256)
    library.pack(pointer(weight), pointer(packed), outputs, inputs, 0)
    if plant is None:
        assert torch.equal(pack_fragments(weight.double(), torch.float16, "cpu").float(), packed)
    d = torch.zeros(16, tiles * 8)
    library.product_16bit(pointer(a), pointer(packed), pointer(d), steps, tiles)
    return d[:, :outputs], a[:, :inputs] @ weight.T


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("mma"), WARP)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (8, 16), (16, 14), (24, 17), (140, 84), (33, 280)], ids=str)
def test_mma_product_through_the_lanes(library, outputs, inputs, generator):
    got, want = product(library, generator, outputs, inputs)
    assert torch.equal(got, want)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant[1])
def test_mma_notices_a_wrong_map(plant, tmp_path, generator):
    got, want = product(build(tmp_path, WARP, plant=plant), generator, 24, 32, plant)
    assert not torch.equal(got, want)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 16), (40, 17)], ids=str)
def test_mma_float32_weights_are_rows_of_inputs(library, outputs, inputs, generator):
    weight = torch.randn(outputs, inputs, generator=generator)
    packed = torch.zeros(-(-outputs // 16), -(-inputs // 16), 256)
    library.pack(pointer(weight), pointer(packed), outputs, inputs, 1)
    ours = pack_fragments(weight.double(), torch.float32, "cpu")
    assert torch.equal(ours, packed)
    rows = ours.view(*ours.shape[:2], 16, 16).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    assert torch.equal(rows[:outputs, :inputs], weight)
    assert rows.count_nonzero() == weight.count_nonzero()


@pytest.mark.parametrize("values", [1, 8, 14, 16, 52, 64, 96, 280])
def test_mma_rows_lie_in_different_banks(library, values):
    pitch = library.pitch(2 * values)
    assert pitch >= 2 * values
    assert len({row * pitch // 16 % 8 for row in range(8)}) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_unpack_fragments_undoes_pack_fragments(dtype, generator):
    weight = torch.randn(40, 17, generator=generator).to(dtype)
    assert torch.equal(unpack_fragments(pack_fragments(weight.double(), dtype, "cpu"), 40, 17), weight)


def test_pack_fragments_refuses(generator):
    with pytest.raises(TypeError, match=r"dtype: got torch\.int8"):
        pack_fragments(torch.zeros(2, 2), torch.int8, "cpu")
    with pytest.raises(ValueError, match=r"weight: got shape \[2\], needs \[N, K\]"):
        pack_fragments(torch.zeros(2), torch.float16, "cpu")


KERNEL = """
#include "substrate/mma.h"
using namespace fastreenact;

template <int32_t kType>
__global__ void product(const uint4* a, const char* weights, float* d) {
    __shared__ uint4 rows[32 * 3 * 2];
    copy_chunk(rows + threadIdx.x, a + threadIdx.x, threadIdx.x < 30);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    float sums[2][3][4] = {};
    constexpr int kPitch = 3 * kChunkBytes;
    multiply_steps<kType, false>(sums, rows, kPitch, weights, int64_t(kBlockWeights), 3, 3);
    if constexpr (kType == kFloat16) {
        multiply_steps<kType, true>(sums, rows, kPitch, weights, int64_t(kBlockWeights), 3, 2);
    }
    rows[threadIdx.x] = load_chunk(weights, threadIdx.x, chunk_unit(uint64_t(weights), 8));
    for (int i = 0; i < 24; ++i) store<kType>(d, threadIdx.x * 24 + i, sums[i / 12][i / 4 % 3][i % 4]);
}
template __global__ void product<kFloat32>(const uint4*, const char*, float*);
template __global__ void product<kFloat16>(const uint4*, const char*, float*);
template __global__ void product<kBFloat16>(const uint4*, const char*, float*);
"""


@pytest.mark.parametrize("architecture", [75, 80, 90])
def test_mma_compiles(architecture, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    (tmp_path / "product.cu").write_text(KERNEL)
    strict = ["--Werror", "all-warnings", "-Xptxas", "--warn-on-spills", f"-I{nvrtc.source_folder()}"]
    command = [nvcc, "-std=c++17", *strict, f"-arch=sm_{architecture}", "-cubin", str(tmp_path / "product.cu")]
    done = subprocess.run([*command, "-o", str(tmp_path / "o")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
