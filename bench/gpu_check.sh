#!/usr/bin/env bash
# Everything that needs a GPU, in one call and under ten minutes, on a machine that has a GPU, PyTorch and a C++ compiler but
# perhaps neither PyAV, MediaPipe nor a package index:
#
#     bash bench/gpu_check.sh
#
# PYTHON names the interpreter (python3), OUT the folder for the results (bench/results/gpu/<date>), BUDGET_S the time (540),
# DRY=1 only says what would run. The package is built into a folder of its own for the GPU that is here; neither the tree
# (but for bench/results/cuda and bench/plots) nor Python is changed. The steps are in order of importance: each has its
# own time limit, a failing one does not stop the next, and what cannot run here is skipped and said so.
set -u
cd "$(dirname "$0")/.."
ROOT=$PWD
PYTHON=${PYTHON:-python3}
BUDGET_S=${BUDGET_S:-540}
DRY=${DRY:-}
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
OUT=${OUT:-$([ -n "$DRY" ] && echo "$SITE/out" || echo "bench/results/gpu/$(date -u +%F)")}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
# The installed copy, not the tree: -P for every Python below. Benchmarks import their neighbours.
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONPATH="$SITE:$ROOT/bench" PYTHONPYCACHEPREFIX="$SITE/pycache"
: >"$OUT/summary.txt"
FAILED=0

# An op has a file of its name in fastreenact/ops; so have its tests and its benchmark. A benchmark that begins with
# timing.py compares with torch.compile too.
COMPARED='timing\.(arguments|begin)'
BENCHES=() OP_TESTS=()
for file in bench/*.py; do
    name=$(basename "$file" .py)
    [ -e "fastreenact/ops/$name.py" ] && grep -qE -- "\"--device\"|$COMPARED" "$file" && BENCHES+=("$name")
done
for file in fastreenact/ops/*.py; do
    name=$(basename "$file" .py)
    for test in "tests/test_$name.py" "tests/test_kernels_$name.py"; do
        [ -e "$test" ] && grep -qE 'pytest\.mark\.gpu|DEVICES' "$test" && OP_TESTS+=("$test")
    done
done
mapfile -t GPU_TESTS < <(grep -lE 'pytest\.mark\.gpu|DEVICES' tests/test_*.py)
mapfile -t ALL_TESTS < <(ls tests/test_*.py)

say() { echo "$*" | tee -a "$OUT/summary.txt"; }
report() { say "$(printf '%-8s %-34s %s' "$1" "$2" "$3")"; }

# step NAME LIMIT_S LOG COMMAND...: the command's output goes to LOG and its end to the screen
step() {
    local name=$1 limit=$2 log="$OUT/$3" left=$((BUDGET_S - SECONDS)) start=$SECONDS code last
    shift 3
    if [ -n "$DRY" ]; then
        report dry "$name" "at most $limit s: $*"
        return 0
    elif ((left < 5)); then
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
    local flags=(-O3 -std=c++17) libraries=(-lpthread) suffix toolkit
    mkdir -p "$SITE/objects"
    cp -r fastreenact "$SITE/"
    rm -rf "$SITE/fastreenact/kernels"
    cp -r kernels "$SITE/fastreenact/kernels"
    cp -r csrc "$SITE/fastreenact/csrc"
    suffix=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    flags+=("-I$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')")
    flags+=("-I$("$PYTHON" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "include"))')")
    if command -v nvcc >/dev/null; then
        toolkit=$(dirname "$(dirname "$(readlink -f "$(nvcc --dryrun -c -x cu /dev/null 2>&1 | sed -n 's/^#\$ _HERE_=//p')/nvcc")")")
        printf '%s\0' csrc/*.cu | xargs -0 -P "$(nproc)" -I{} sh -c \
            'nvcc -std=c++17 -O3 -Icsrc -Xcompiler -fPIC -arch='"$ARCH"' -c {} -o "$SITE/objects/$(basename {}).o"'
        flags+=("-I$toolkit/include" -DFASTREENACT_WITH_CUDA=1 "-DFASTREENACT_CUDA_ARCHITECTURES=\"$ARCH\"")
        libraries+=("-L$toolkit/lib64" -lcudart_static -ldl -lrt)
    fi
    flags+=(-Icsrc -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -DFASTREENACT_ISA=plain '-DFASTREENACT_ISAS=ISA(plain)')
    printf '%s\0' csrc/*.cpp csrc/*/*.cpp | xargs -0 -P "$(nproc)" -I{} sh -c \
        '"${CXX:-c++}" "$@" -c {} -o "$SITE/objects/$(basename {}).o"' sh "${flags[@]}"
    "${CXX:-c++}" -shared "$SITE"/objects/*.o -o "$SITE/fastreenact/_C$suffix" "${libraries[@]}"
}

installed() {
    "$PYTHON" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' "$@"
}

build() {
    if installed pip pybind11 setuptools && { installed cmake ninja || command -v cmake ninja >/dev/null; }; then
        mkdir -p "$SITE/tree"
        cp -r CMakeLists.txt LICENSE MANIFEST.in README.md csrc fastreenact kernels pyproject.toml setup.py "$SITE/tree"
        "$PYTHON" -m pip --disable-pip-version-check install --no-build-isolation --no-deps --no-index --quiet \
            --target "$SITE" "$SITE/tree" && echo "built for ${FASTREENACT_CUDA_ARCHITECTURES:-every architecture}" && return 0
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
import importlib.metadata, platform
print("Python", platform.python_version())
for name in ("torch", "triton", "numpy", "cupy-cuda13x", "av", "mediapipe", "pytest", "hypothesis", "pybind11", "cmake", "ninja"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is not installed")
PY
    echo "these are the versions"
}

# tests MARK FILE...: each file in a process of its own, side by side, since most of the time goes into compiling kernels
tests() {
    local mark=$1 code
    shift
    trap : TERM # when time is up the processes end, and what they have said is still shown
    rm -rf "$SITE/logs"
    mkdir -p "$SITE/logs"
    printf '%s\n' "$@" | OMP_NUM_THREADS=2 MARK=$mark xargs -P "$JOBS" -I{} sh -c '
        "$PYTHON" -m pytest -p no:cacheprovider -q -m "$MARK" {} >"$SITE/logs/$(basename {}).txt" 2>&1
        code=$?
        [ $code -eq 0 ] || [ $code -eq 5 ]' # 5: nothing in it has the mark
    code=$?
    cat "$SITE"/logs/*.txt
    tail -qn 1 "$SITE"/logs/*.txt | "$PYTHON" -c '
import re, sys
found = re.findall(r"(\d+) (passed|failed|skipped|error)", sys.stdin.read())
print(", ".join(f"{sum(int(n) for n, word in found if word == kind)} {kind}" for kind in ("passed", "failed", "error", "skipped")))'
    return $code
}

# some of the tests of FILE..., evenly picked: the sanitizer makes every access a hundred times slower
sanitize() {
    local ids code=0 tool pids=()
    trap : TERM
    "$PYTHON" -m pytest -p no:cacheprovider -q -m gpu --collect-only "$@" | grep '::' | "$PYTHON" -c '
import sys
files = {}
for line in sys.stdin.read().splitlines():
    if "graph" not in line:  # captures need the allocator that is off below
        files.setdefault(line.partition("::")[0], []).append(line)
for ids in files.values():
    few = 6
    print(*{ids[i * len(ids) // few]: None for i in range(few)}, sep="\n")' >"$SITE/few.txt"
    mapfile -t ids <"$SITE/few.txt"
    for tool in memcheck racecheck; do
        # Without PyTorch's allocator every tensor has its own bounds.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$SANITIZER" --tool "$tool" --error-exitcode 9 \
            "$PYTHON" -m pytest -p no:cacheprovider -q -m gpu "${ids[@]}" >"$SITE/$tool.txt" 2>&1 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
    for tool in memcheck racecheck; do
        echo "== $tool"
        cat "$SITE/$tool.txt"
    done
    echo "${#ids[@]} tests with each: $(grep -h 'SUMMARY' "$SITE/memcheck.txt" "$SITE/racecheck.txt" | tr -d '=' | tr '\n' ';')"
    return $code
}

JOBS=$(($(nproc) / 2 > 1 ? $(nproc) / 2 : 1))
ARCH=native
GPU=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
if [ -n "$GPU" ]; then
    FASTREENACT_CUDA_ARCHITECTURES=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
    export FASTREENACT_CUDA_ARCHITECTURES
    ARCH=sm_$FASTREENACT_CUDA_ARCHITECTURES
elif command -v nvcc >/dev/null; then
    ARCH=all-major # native needs a GPU
fi
[ -z "$DRY" ] || GPU=${GPU:-any}
SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
export -f build build_by_hand installed what_is_here tests sanitize
export SITE PYTHON JOBS ARCH SANITIZER

step "what is here" 60 environment.txt bash -c what_is_here
if ! step "build" 240 environment.txt bash -c build; then
    say "nothing can run without the build"
    exit 1
fi
step "doctor" 60 environment.txt bash -c '"$PYTHON" -m fastreenact doctor || true' # PyAV and MediaPipe may be missing
if [ -n "$GPU" ]; then
    step "tests on the GPU" 240 tests-gpu.txt bash -c 'tests gpu "$@"' tests "${GPU_TESTS[@]}"
    if [ -z "$DRY" ] && [ -z "$SANITIZER" ]; then
        report skipped "memcheck and racecheck" "compute-sanitizer is not installed"
    elif [ -z "$DRY" ] && ! timeout 60 "$SANITIZER" "$PYTHON" -c \
        'import torch; torch.zeros(8, device="cuda").add_(1).cpu()' >"$OUT/sanitizer.txt" 2>&1; then
        report skipped "memcheck and racecheck" "cannot attach here: $(tail -n 1 "$OUT/sanitizer.txt" | cut -c1-80)"
    else
        step "memcheck and racecheck" 150 sanitizer.txt bash -c 'sanitize "$@"' sanitize "${OP_TESTS[@]}"
    fi
    for name in "${BENCHES[@]}"; do
        quicker=() # compiling each shape takes longer than measuring it: those come when the rest is done
        ! grep -qE "$COMPARED" "bench/$name.py" || quicker=(--no-compile)
        step "bench $name" 40 bench.txt "$PYTHON" "bench/$name.py" --device cuda "${quicker[@]}"
    done
    step "the step from 256 to 2048" 150 bench.txt "$PYTHON" bench/sizes.py --device cuda
    step "the step beside others at 1440" 200 bench.txt "$PYTHON" bench/network.py --device cuda --sizes 1440
    step "whole frames" 90 bench.txt "$PYTHON" bench/engine.py --device cuda
    for name in "${BENCHES[@]}"; do
        ! grep -qE "$COMPARED" "bench/$name.py" ||
            step "bench $name, torch.compile too" 120 bench.txt "$PYTHON" "bench/$name.py" --device cuda
    done
else
    report skipped "all but the CPU's tests" "no CUDA device"
fi
step "tests on the CPU" 240 tests-cpu.txt bash -c 'tests "not gpu and not slow" "$@"' tests "${ALL_TESTS[@]}"

# few files, so that they are easy to carry away
if [ -z "$DRY" ] && compgen -G "bench/results/cuda/*.json" >/dev/null; then
    "$PYTHON" bench/report.py --tables cuda >"$OUT/tables.md"
    tar -czf "$OUT/bench-results.tar.gz" bench/results/cuda
fi
say "$SECONDS s in all; results in $OUT"
exit $FAILED
