#!/usr/bin/env bash
# Builds the virtual environment: torch, the OpenMMLab packages, mmcv's ops compiled against that torch, this project.
# Run by `make setup`, `make test` and `make demo`. A finished step runs again only if one of its pins, or a pin of an
# earlier step, changes. An interrupted set-up continues with the step that it stopped in.
#
# Variables: VENV (.venv), PYTHON (the first suitable one of python3, python3.11, python3.12, python3.10), TORCH,
# TORCHVISION, MMCV, MMENGINE, MMSEG, MMPRETRAIN (versions), CUDA_OPS (auto, 1, 0: compile mmcv's CUDA ops),
# MAX_JOBS (compilers at once).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
torch=${TORCH:-2.12.1}
torchvision=${TORCHVISION:-0.27.1}
mmcv=${MMCV:-2.1.0}
mmengine=${MMENGINE:-0.10.7}
mmseg=${MMSEG:-1.2.2}
mmpretrain=${MMPRETRAIN:-1.2.0}
python_min=3.10 # torch 2.12 needs it
python_max=3.12 # mmcv 2.1.0 does not build on later ones
venv_gb=8 tmp_gb=4

[[ $venv == /* ]] || venv=$PWD/$venv
py=$venv/bin/python
stamps=$venv/.setup
log=$venv/setup.log
constraints=requirements/constraints.txt

fail() {
    echo "setup: $*" >&2
    exit 1
}

# ---- requirements, checked before anything is downloaded ----

# Prints why the Python $1 is not suitable, or nothing if it is.
python_problem() {
    command -v "$1" >/dev/null || { echo "there is no $1" && return; }
    "$1" - "$python_min" "$python_max" 2>/dev/null <<'PY' || echo "$1 does not run"
import importlib.util, os, sys, sysconfig  # no f-strings, so that old versions of Python reach the version check

low, high = (tuple(map(int, bound.split('.'))) for bound in sys.argv[1:])
header = os.path.join(sysconfig.get_paths()['include'], 'Python.h')
if not low <= sys.version_info[:2] <= high:
    print('{} is Python {}.{}'.format(sys.executable, *sys.version_info[:2]))
elif not all(map(importlib.util.find_spec, ('venv', 'ensurepip'))):
    print('{} has no venv module (Debian, Ubuntu: apt install python3-venv)'.format(sys.executable))
elif not os.path.isfile(header):
    print('{} is missing (Debian, Ubuntu: apt install python3-dev)'.format(header))
PY
}

# Sets PYTHON to a suitable one.
find_python() {
    local candidate problem first=
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10}; do
        problem=$(python_problem "$candidate")
        if [[ -z $problem ]]; then
            PYTHON=$candidate
            return
        fi
        first=${first:-$problem}
    done
    fail "needs Python $python_min to $python_max with venv and headers, but $first; choose another with PYTHON=..."
}

check_compiler() {
    local cxx=${CXX:-c++}
    $cxx -x c++ -std=c++17 -o /dev/null - 2>/dev/null <<<'int main() {}' ||
        fail "mmcv's ops need a C++17 compiler, but '$cxx' is missing or fails (Debian, Ubuntu: apt install g++; or set CXX=...)"
}

# Resolves CUDA_OPS to 1 or 0 and finds the CUDA compiler.
check_cuda() {
    local gpu=0 home=${CUDA_HOME:-/usr/local/cuda}
    nvidia-smi -L >/dev/null 2>&1 && gpu=1
    cuda_ops=${CUDA_OPS:-auto}
    [[ $cuda_ops != auto ]] || cuda_ops=$gpu
    [[ $cuda_ops == [01] ]] || fail "CUDA_OPS is auto, 1 or 0, not '$cuda_ops'"
    nvcc=$(command -v nvcc || command -v "$home/bin/nvcc" || true)
    if [[ $cuda_ops == 1 && -z $nvcc ]]; then
        fail "mmcv's CUDA ops need nvcc, which is neither in PATH nor in $home/bin; install the CUDA toolkit of torch's CUDA version or set CUDA_OPS=0"
    fi
}

check_space() { # check_space FOLDER GIGABYTES
    local folder=$1 free
    while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
    free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1048576))
    ((free >= $2)) || fail "needs $2 GB in $folder, $free GB are free; choose another folder with ${3}=..."
}

# ---- steps ----

# Runs a step unless its stamp marks it as done. Keys are chained: a changed pin redoes all steps from there on.
step() { # step NAME TITLE COMMAND
    local name=$1 title=$2 began=$SECONDS status
    chain=$(chained_key "$name")
    count=$((count + 1))
    if [[ $(cat "$stamps/$name" 2>/dev/null) == "$chain" ]]; then
        echo "setup [$count/5] $name: done before"
        return
    fi
    echo "setup [$count/5] $name: $title"
    mkdir -p "$stamps"
    (while sleep 60 >/dev/null 2>&1; do echo "setup       ... $(((SECONDS - began) / 60)) min"; done) &
    beat=$!
    set +e # as part of a condition, the subshell would ignore set -e
    (set -e; "$3") >>"$log" 2>&1
    status=$?
    set -e
    kill $beat 2>/dev/null || true
    beat=
    if ((status != 0)); then
        tail -n 15 "$log" >&2
        fail "step $name failed; the log is $log"
    fi
    echo "$chain" >"$stamps/$name"
    echo "setup       done in $((SECONDS - began)) s"
}

chained_key() {
    local pins
    case $1 in
    venv) pins="$version $venv" ;;
    torch) pins="$torch $torchvision" ;;
    openmmlab) pins="$mmengine $mmseg $mmpretrain $(cksum <$constraints)" ;;
    mmcv) pins="$mmcv $cuda_ops" ;;
    project) pins="$PWD $(cat setup.py pyproject.toml mmbirefnet/version.py requirements/*.txt | cksum)" ;;
    esac
    echo "$chain|$1 $pins" | cksum
}

pip() { "$py" -m pip --disable-pip-version-check --no-input "$@"; }

make_venv() {
    [[ -x $py ]] || "$PYTHON" -m venv "$venv"
    pip --version || "$py" -m ensurepip # pip is missing if creating the environment was interrupted
    pip install -c $constraints 'setuptools>=78.1.1,<82' wheel ninja psutil packaging
}

install_torch() { pip install -c $constraints "torch==$torch" "torchvision==$torchvision"; }

install_openmmlab() {
    pip install -c $constraints "mmengine==$mmengine" "mmsegmentation==$mmseg" "mmpretrain==$mmpretrain" ftfy regex
    # opencv-python needs libGL, which servers often lack; the headless package of the same version does not.
    "$py" -c 'import cv2' || pip install -c $constraints --force-reinstall --no-deps opencv-python-headless
    "$py" -c 'import cv2'
}

# One forward pass of mmcv's DCNv2, compared with a convolution: fails if the ops were compiled for another torch.
ops_work() { "$py" -c "from mmbirefnet.environment import check_deform_conv as run; run('cpu'); $cuda_ops and run('cuda')"; }

install_mmcv() {
    local target="$mmcv for torch $torch, CUDA $cuda_ops" built=$stamps/mmcv-built
    if [[ $(cat "$built" 2>/dev/null) == "$target" ]] && ops_work; then
        return
    fi
    export MMCV_WITH_OPS=1 CFLAGS="${CFLAGS:--g0 -O2}" MAX_JOBS=$jobs FORCE_CUDA=$cuda_ops
    if [[ $cuda_ops == 1 ]]; then
        local site runtime
        runtime=$("$py" -c 'import torch; print(torch.version.cuda or "none")')
        "$nvcc" --version | grep -q "release ${runtime%%.*}\." || {
            echo "$nvcc does not have torch's CUDA version, $runtime; put one that does first in PATH, or set CUDA_OPS=0"
            return 1
        }
        # If the toolkit was installed without headers such as cusparse.h, pip's CUDA packages have them.
        site=$("$py" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
        export CPATH="${CPATH:+$CPATH:}$site/nvidia/cu${runtime%%.*}/include"
    else
        export CUDA_VISIBLE_DEVICES= # mmcv compiles for CUDA when it sees a GPU
    fi
    pip uninstall --yes mmcv
    pip install -c $constraints --no-build-isolation "mmcv==$mmcv"
    # pip's cache distinguishes versions of mmcv, but not the torch that they were compiled for.
    ops_work || pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps "mmcv==$mmcv"
    ops_work
    echo "$target" >"$built"
}

install_project() { pip install -c $constraints --no-build-isolation -e '.[tests]'; }

# ---- main ----

began=$SECONDS count=0 chain= reason= beat=
trap '[[ -z $beat ]] || kill $beat 2>/dev/null || true' EXIT
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }
check_cuda
version=$(version_of "$py" || true)
if [[ -n $version && -n ${PYTHON:-} ]]; then
    find_python
    wanted=$(version_of "$PYTHON")
    [[ ${wanted%.*} == "${version%.*}" ]] || reason="has Python $version, but $wanted is requested"
elif [[ -z $version && -n $(ls -A "$venv" 2>/dev/null) ]]; then
    reason='has no working Python'
fi
if [[ -n $reason && ! -d $stamps ]]; then # not created by this script, which therefore must not remove it
    fail "$venv $reason; remove it, or choose another folder with VENV=..."
fi
for name in venv torch openmmlab mmcv project; do chain=$(chained_key $name); done
if [[ -z $reason && -n $version && $(cat "$stamps/project" 2>/dev/null) == "$chain" ]]; then
    echo "setup: $venv is up to date"
    exit
fi
if [[ -n $reason || -z $version ]]; then
    find_python
    version=$(version_of "$PYTHON")
fi
check_compiler
if [[ -n $reason || ! -f $stamps/torch ]]; then
    check_space "$venv" $venv_gb VENV
    check_space "${TMPDIR:-/tmp}" $tmp_gb TMPDIR
fi
if [[ -n $reason ]]; then
    echo "setup: $venv $reason: creating it again"
    rm -rf "$venv"
fi

cores=$(getconf _NPROCESSORS_ONLN)
memory=$(awk '/MemAvailable/ {print int($2 / 2097152)}' /proc/meminfo 2>/dev/null || echo "$cores") # 2 GB per compiler
jobs=${MAX_JOBS:-$((memory < 1 ? 1 : memory < cores ? memory : cores))}
minutes=$(((cuda_ops == 1 ? 70 : 22) / jobs + 1))
echo "setup: Python $version, torch $torch, mmcv $mmcv in $venv; about $((minutes + 4)) minutes in total"
chain=
step venv 'a virtual environment with the build tools; about 15 s' make_venv
step torch "torch $torch and torchvision $torchvision; about 3 GB to download, 2 minutes or more" install_torch
step openmmlab "mmengine $mmengine, mmsegmentation $mmseg, mmpretrain $mmpretrain; about 1 minute" install_openmmlab
step mmcv "mmcv $mmcv, its ops compiled by $jobs jobs; about $minutes minutes, or seconds if pip has cached them" install_mmcv
step project 'this project, editable, with pytest and ruff; about 20 s' install_project
echo "setup: ready in $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s"
