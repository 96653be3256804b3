#!/usr/bin/env bash
# Sets up an emulated 64-bit Arm on x86-64 Debian: qemu's user mode, an arm64 Python and LiteRT's own aarch64 wheel with its
# NEON kernels, from Debian and PyPI packages only. Needs no root and installs nothing outside its folder.
#
#   setup.sh [DIR]     default: $KERAS_QUANT_AARCH64, or ~/.cache/keras_quant/aarch64
#
# PYTHON   the Python whose pip fetches the wheels; default python3
# LITERT   version of ai-edge-litert; default: the one installed for $PYTHON, or else the newest
set -euo pipefail
dir=${1:-${KERAS_QUANT_AARCH64:-${XDG_CACHE_HOME:-$HOME/.cache}/keras_quant/aarch64}}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
for tool in apt-get dpkg "$python"; do
  command -v "$tool" >/dev/null || { echo "setup.sh: needs $tool; run it on Debian" >&2; exit 1; }
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rm -rf "$dir"/{ready,apt,root,tools,site,cpus,qemu}

# Unpack Debian packages of an architecture, with all they depend on if DEPENDENCIES is yes: fetch ARCH TARGET DEPENDENCIES NAME...
fetch() {
  local arch=$1 target=$2 dependencies=$3 apt=$dir/apt/$1
  shift 3
  mkdir -p "$apt"/{lists,cache/archives}/partial "$target"
  : >"$apt/status"
  local options=(-qq -oAPT::Architecture="$arch" -oAPT::Architectures="$arch" -oDir::State::Lists="$apt/lists"
    -oDir::State::status="$apt/status" -oDir::Cache="$apt/cache" -oAPT::Sandbox::User=root -oDebug::NoLocking=1)
  apt-get "${options[@]}" update
  if [ "$dependencies" = yes ]; then
    apt-get "${options[@]}" -y --no-install-recommends --download-only install "$@" >/dev/null
  else
    (cd "$apt/cache/archives" && apt-get "${options[@]}" download "$@" >/dev/null)
  fi
  for deb in "$apt"/cache/archives/*.deb; do dpkg -x "$deb" "$target"; done
}

echo "qemu and an arm64 Python, from Debian"
fetch "$(dpkg --print-architecture)" "$dir/tools" no qemu-user-static
fetch arm64 "$dir/root" yes python3 libstdc++6 libgomp1
qemu=$(find "$dir/tools/usr/bin" -name 'qemu-aarch64*' ! -name '*_be*' | head -n 1)
[ -x "$qemu" ] || { echo "setup.sh: Debian's qemu-user-static holds no qemu-aarch64" >&2; exit 1; }
cp -L "$qemu" "$dir/qemu"
rm -rf "$dir/tools"
version=$(readlink "$dir/root/usr/bin/python3" | sed 's/^python//')

echo "LiteRT and NumPy for aarch64 and Python $version, from PyPI"
installed='import importlib.metadata as m; print(m.version("ai-edge-litert"))'
litert=${LITERT:-$("$python" -c "$installed" 2>/dev/null || true)}
platforms=()
for libc in manylinux2014 manylinux_2_17 manylinux_2_27 manylinux_2_28; do platforms+=(--platform "${libc}_aarch64"); done
"$python" -m pip install -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp "${platforms[@]}" \
  --target "$dir/site" "ai-edge-litert${litert:+==$litert}" numpy

# XNNPACK picks its kernels by /proc/cpuinfo, which qemu looks for here first. One folder for each processor, as qemu names it:
# cortex-a76 has the dot-product instructions (asimddp), cortex-a72 has not.
cpu() {
  mkdir -p "$dir/cpus/$1/proc"
  for part in "$dir"/root/*; do ln -s "../../root/${part##*/}" "$dir/cpus/$1/"; done
  for core in 0 1; do
    printf 'processor\t: %s\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x%s\nCPU part\t: %s\nCPU revision\t: %s\n\n' \
      "$core" "$4" "$5" "$2" "$3"
  done >"$dir/cpus/$1/proc/cpuinfo"
}
base="fp asimd evtstrm aes pmull sha1 sha2 crc32"
cpu cortex-a72 0xd08 3 "$base cpuid" 0
cpu cortex-a76 0xd0b 0 "$base atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp" 1

cp "$here/serve.py" "$dir/serve.py"
rm -rf "$dir/apt"
touch "$dir/ready"
echo "ready: $dir"
