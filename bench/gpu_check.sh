#!/usr/bin/env bash
# Everything that needs a GPU, in one call and under ten minutes, on a machine that has a GPU, PyTorch and a C++ compiler but
# perhaps neither PyAV, MediaPipe nor a package index:
#
#     bash bench/gpu_check.sh
#
# PYTHON names the interpreter (python3), OUT the folder for the results (bench/results/gpu/<date>), BUDGET_S the time (540).
# The package is built into a folder of its own; neither the tree nor the Python installation is changed. Every step has
# its own time limit and a failing one does not stop the next; what cannot run here is skipped and said so.
set -u
cd "$(dirname "$0")/.."
ROOT=$PWD
PYTHON=${PYTHON:-python3}
OUT=${OUT:-bench/results/gpu/$(date -u +%F)}
BUDGET_S=${BUDGET_S:-540}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
# The installed copy, not the tree: -P for every Python below. Benchmarks import their neighbours.
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONPATH="$SITE:$ROOT/bench" PYTHONPYCACHEPREFIX="$SITE/pycache"
: >"$OUT/summary.txt"
FAILED=0

say() { echo "$*" | tee -a "$OUT/summary.txt"; }
report() { say "$(printf '%-8s %-34s %s' "$1" "$2" "$3")"; }

# step NAME LIMIT_S LOG COMMAND...: the command's output goes to LOG and its end to the screen
step() {
    local name=$1 limit=$2 log="$OUT/$3" left=$((BUDGET_S - SECONDS)) start=$SECONDS code last
    shift 3
    if ((left < 5)); then
        report skipped "$name" "no time left"
        return 0
    fi
    echo "=== $name" >>"$log"
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" </dev/null >>"$log" 2>&1
    code=$?
    last=$(tail -n 1 "$log" | cut -c1-100)
    [[ $last != ===* ]] || last="nothing said"
    case $code in
        0) report ok "$name" "$((SECONDS - start)) s; $last" ;;
        124 | 137) report late "$name" "stopped after $((SECONDS - start)) s" && FAILED=1 ;;
        *) report failed "$name" "exit $code after $((SECONDS - start)) s; $last" && FAILED=1 && tail -n 15 "$log" ;;
    esac
    return "$code"
}

# Without CMake, Ninja or pybind11 (whose headers PyTorch brings along): the same sources by hand, one instruction set.
build_by_hand() {
    set -e
    local objects="$SITE/objects" headers suffix cuda=()
    mkdir -p "$objects"
    cp -r fastreenact "$SITE/"
    cp -r kernels "$SITE/fastreenact/kernels"
    cp -r csrc "$SITE/fastreenact/csrc"
    headers=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    headers="-I$headers -I$("$PYTHON" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "include"))')"
    suffix=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    if command -v nvcc >/dev/null; then
        local toolkit
        toolkit=$(dirname "$(dirname "$(readlink -f "$(nvcc --dryrun -c -x cu /dev/null 2>&1 | sed -n 's/^#\$ _HERE_=//p')/nvcc")")")
        for file in csrc/*.cu; do
            nvcc -std=c++17 -O3 -Xcompiler -fPIC -arch=all-major -c "$file" -o "$objects/$(basename "$file").o"
        done
        headers="$headers -I$toolkit/include"
        cuda=(-DFASTREENACT_WITH_CUDA=1 '-DFASTREENACT_CUDA_ARCHITECTURES="all-major"')
        local libraries="-L$toolkit/lib64 -lcudart_static -ldl -lrt"
    fi
    for file in csrc/*.cpp; do
        # shellcheck disable=SC2086
        "${CXX:-c++}" -std=c++17 -O3 -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -DFASTREENACT_ISA=plain \
            ${cuda[@]+"${cuda[@]}"} $headers -c "$file" -o "$objects/$(basename "$file").o"
    done
    # shellcheck disable=SC2086
    "${CXX:-c++}" -shared "$objects"/*.o -o "$SITE/fastreenact/_C$suffix" ${libraries-} -lpthread
}

build() {
    if "$PYTHON" -c 'import cmake, ninja, pip, pybind11, setuptools' 2>/dev/null || {
        "$PYTHON" -c 'import pip, pybind11, setuptools' 2>/dev/null && command -v cmake ninja >/dev/null
    }; then
        mkdir -p "$SITE/tree"
        cp -r CMakeLists.txt LICENSE MANIFEST.in README.md csrc fastreenact kernels pyproject.toml setup.py "$SITE/tree"
        "$PYTHON" -m pip --disable-pip-version-check install --no-build-isolation --no-deps --no-index --quiet \
            --target "$SITE" "$SITE/tree" && return 0
        echo "pip could not build it; building by hand"
    else
        echo "CMake, Ninja, pybind11 or setuptools is missing; building by hand"
    fi
    build_by_hand
}

what_is_here() {
    uname -srm
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
    nvcc --version 2>/dev/null | grep release || echo "no nvcc"
    "$PYTHON" - <<'PY'
import importlib.metadata, importlib.util, platform
print("Python", platform.python_version())
for name in ("torch", "triton", "numpy", "cupy-cuda13x", "av", "mediapipe", "pytest", "hypothesis", "pybind11", "cmake", "ninja"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is not installed")
PY
}

export -f build build_by_hand what_is_here
export SITE PYTHON
step "what is here" 60 environment.txt bash -c what_is_here
if ! step "build" 200 build.txt bash -c build; then
    say "nothing can run without the build"
    exit 1
fi
step "doctor" 60 environment.txt bash -c '"$PYTHON" -m fastreenact doctor || true' # PyAV and MediaPipe may be missing

PYTEST=("$PYTHON" -m pytest -p no:cacheprovider -q --continue-on-collection-errors)
GPU=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
if [ -n "$GPU" ]; then
    step "tests on the GPU ($GPU)" 240 tests-gpu.txt "${PYTEST[@]}" -m gpu
    SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -z "$SANITIZER" ]; then
        report skipped "compute-sanitizer" "not installed"
    elif ! timeout 60 "$SANITIZER" "$PYTHON" -c 'import torch; torch.zeros(8, device="cuda").add_(1).cpu()' \
        >"$OUT/sanitizer.txt" 2>&1; then
        report skipped "compute-sanitizer" "it cannot attach to this device: $(tail -n 1 "$OUT/sanitizer.txt" | cut -c1-80)"
    else
        # Small cases: the sanitizer makes every access a hundred times slower. The graph's error code makes the step fail.
        SMALL='matches_reference and (odd or table or border or 17)'
        for tool in memcheck racecheck; do
            step "$tool" 100 sanitizer.txt "$SANITIZER" --tool "$tool" --error-exitcode 9 "${PYTEST[@]}" -m gpu \
                -k "$SMALL" tests/test_kernels_*.py
        done
    fi
else
    for name in "tests on the GPU" "memcheck" "racecheck"; do report skipped "$name" "no CUDA device"; done
fi

for script in bench/*.py; do
    name=$(basename "$script" .py)
    limit=60 more=()
    case $name in
        timing | report | plot | launches | network_* | gmac | model_* | soak | reenactment | fit) continue ;; # no GPU, or no measurement
        network) limit=200 more=(--sizes 1440) ;; # torch.compile tries hundreds of kernels
        sizes) limit=120 ;;
    esac
    if ! grep -q -- '"--device"' "$script"; then
        report skipped "bench $name" "has no --device"
    elif [ -z "$GPU" ]; then
        report skipped "bench $name" "no CUDA device"
    else
        step "bench $name" "$limit" bench.txt "$PYTHON" "$script" --device cuda ${more[@]+"${more[@]}"}
    fi
done

step "tests on the CPU" 240 tests-cpu.txt "${PYTEST[@]}" -m "not gpu and not slow"

# few files, so that they are easy to carry away
if compgen -G "bench/results/cuda/*.json" >/dev/null; then
    tar -czf "$OUT/bench-results.tar.gz" bench/results/cuda
fi
say "$SECONDS s in all; results in $OUT"
exit $FAILED
