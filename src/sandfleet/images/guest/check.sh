# Run inside a freshly booted guest, as its user, before the image is accepted: says what is missing, and fails then.
problems=0
need() {
    local what=$1
    shift
    "$@" > /dev/null 2>&1 || {
        echo "missing: $what"
        problems=1
    }
}

for tool in bash sudo apt-get git gcc make jq curl wget nslookup host ps pgrep pkill free tar dd ip sqlite3 ssh-keygen; do
    need "the program $tool" command -v "$tool"
done
need "user sandbox with uid 1000" test "$(id -un):$(id -u)" = sandbox:1000
need "sudo without a password" sudo -n true
need "a home of one's own" test -O "$HOME"
need "a writable /workspace" touch /workspace/.check
rm -f /workspace/.check
need "a data disk that is not the root disk" test "$(stat -c %d /workspace)" != "$(stat -c %d /)"
need "apt's cache on the data disk" test "$(stat -c %d /var/cache/apt/archives)" = "$(stat -c %d "$HOME")"
need "a name server" grep -q '^nameserver 10.0.2.2$' /etc/resolv.conf
need "an agent named osb-agent" test "$(cat /proc/1/comm)" = osb-agent
need "the agent outside of the user's cgroup" grep -qv sandbox /proc/1/cgroup
need "this shell inside of it" grep -q '/sandbox' /proc/self/cgroup
need "a UTF-8 locale" test "$(locale charmap)" = UTF-8
need "python3 with sqlite3, http.server, pip and venv" python3 -c 'import sqlite3, http.server, pip, venv'
need "npx" command -v npx
need "npm" command -v npm
need "Node.js 20 or newer, with npm" node -e '
    require("/usr/lib/node_modules/npm/package.json");
    process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)'
for module in overlay bridge ip_tables nf_tables; do
    need "the kernel module $module" sudo modprobe -n "$module"
done
exit $problems
