#!/usr/bin/env bash
# Installs the programs that some tests run against: a real RTSP server, browser, Prometheus and MQTT broker.
# A test whose program is missing skips with its reason; in CI (CI=true) nothing may be missing.
set -euo pipefail

packages=(
    chromium
    gir1.2-gst-rtsp-server-1.0
    gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-base
    gstreamer1.0-plugins-good
    gstreamer1.0-plugins-ugly
    mosquitto
    openssl
    prometheus
    python3-gi
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "${CI:-}" != true ]; then
    echo "some tests will be skipped; to run them: apt-get install ${missing[*]}" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}"
