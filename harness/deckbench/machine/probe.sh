# Sent to another machine's sh over ssh (machine/remote.py): prints what the machine is as key=value lines, and changes
# nothing. POSIX sh and what every Linux has; what is missing stays empty.
# $1: all, or resources (memory, disk, a Jetson's own files: nothing that takes seconds). $2: docker's folder, if known.
exec 2>/dev/null
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin:/usr/local/sbin
export LC_ALL PATH

# One line, whatever the value holds; `;` between the lines it had.
put() { printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\n\r\000' ';  ')"; }
within() { if command -v timeout >/dev/null; then timeout "$@"; else shift; "$@"; fi; }
first() { [ -r "$1" ] && head -n 1 "$1"; }
ended() {
  docker ps --all --quiet --filter "label=$1" --filter status=created --filter status=exited --filter status=dead | wc -l
}
memory() { sed -n "s/^$1: *\\([0-9][0-9]*\\) kB\$/\\1/p" /proc/meminfo; }
disk() { df -Pk "$1" | sed -n '2s/^.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*$/\1/p'; }

resources() {
  put machine "$(uname -m)"
  put memory_kb "$(memory MemTotal)"
  put free_memory_kb "$(memory MemAvailable)"
  put jetson_files "$(ls -d /etc/nv_tegra_release /var/lib/nvpmodel)"
  put gpu_groups "$(stat -c %g /dev/nvmap /dev/nvhost-ctrl /dev/nvhost-gpu /dev/nvgpu/igpu0/ctrl /dev/dri/renderD128)"
  root=$1
  [ -n "$root" ] || root=$(command -v docker >/dev/null && within 20 docker info --format '{{.DockerRootDir}}')
  [ -n "$root" ] && put docker_free_kb "$(disk "$root")"
}

hardware() {
  put kernel "$(uname -r)"
  put system "$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release)"
  put board "$(tr -d '\000' </sys/firmware/devicetree/base/model)"
  put tegra "$(first /etc/nv_tegra_release)"
  put python "$(python3 --version)"
  put cpu "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
  put cores "$(nproc)"
  put governor "$(first /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor)"
  put power_mode "$(within 10 nvpmodel -q | sed -n 's/^NV Power Mode: //p')"
  for folder in /sys/class/devfreq/*gpu* /sys/class/devfreq/*ga10b*; do
    [ -r "$folder/max_freq" ] || continue
    put gpu_low "$(first "$folder/min_freq")"
    put gpu_high "$(first "$folder/max_freq")"
    break
  done
  put gpus "$(within 10 nvidia-smi --query-gpu=name,memory.total,memory.free,driver_version \
    --format=csv,noheader,nounits)"
}

daemon() {
  command -v docker >/dev/null || return
  put docker "$(within 20 docker info --format '{{json .}}')"
  put images "$(docker image ls --quiet --no-trunc --filter label=deckbench | sort -u | while read -r id; do
    docker image inspect --format '{{json .}}' "$id"
  done)"
  put left_over "$(($(ended deckbench) - $(ended deckbench=far-job) - $(ended deckbench=store)))"
  put waiting "$(ended deckbench=far-job)"
}

look() {
  echo deckbench-probe=1
  resources "$2"
  if [ "$1" = all ]; then
    hardware
    daemon
  fi
  echo deckbench-probe=end
}
look "$@" </dev/null # begins only when the whole script has arrived, and nothing in it reads the script
