#!/bin/sh
# Makes the base image `localhost/debian:bookworm-slim` where no registry of images is reached, from Debian's packages.
# As root; needs debootstrap and buildah. What a company's proxy asks of pip and uv here, its image gets too: the
# certificates of /usr/local/share/ca-certificates, and the folder of wheels that PIP_FIND_LINKS names.
set -eu

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root"
# As in the official image: no lists, no caches, no documentation, now and after each apt-get.
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/usr/share/doc/* "$root"/usr/share/locale/*
cat > "$root/etc/apt/apt.conf.d/docker-clean" <<'END'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END
printf 'path-exclude /usr/share/%s/*\n' doc locale man > "$root/etc/dpkg/dpkg.cfg.d/docker"

mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/uv"
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$root/etc/pip.conf"
printf 'system-certs = true\nfind-links = [%s]\n' "${PIP_FIND_LINKS:+\"$PIP_FIND_LINKS\"}" > "$root/etc/uv/uv.toml"

base=$(buildah from scratch)
trap 'buildah rm "$base" > /dev/null; rm -rf "$root"' EXIT
buildah add --quiet "$base" "$root" / > /dev/null
buildah commit --quiet "$base" localhost/debian:bookworm-slim
