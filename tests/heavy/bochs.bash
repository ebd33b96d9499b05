# Sourced: x86 processors that this machine is not, by the emulator Bochs, with a Linux as guest.
# FOLDER below is where all that is fetched and built is kept.
# shellcheck shell=bash

# bochs_fetch FOLDER: Debian packages of a guest and the source of Bochs, unpacked, not installed.
bochs_fetch() {
    local folder=$1 apt=$1/apt kernel package
    [[ ! -e $folder/fetched ]] || return 0
    rm -rf "$apt" "$folder/root" "$folder/source"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$folder/root" "$folder/source"
    : >"$apt/status"
    local mirror='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    mirror+=' http://deb.debian.org/debian'
    printf '%s main\n' "deb $mirror trixie" "deb-src $mirror trixie" \
        "deb $mirror trixie-backports" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
END
    (
        export APT_CONFIG=$apt/apt.conf
        apt-get -qq update
        # Linux 6.12 hangs on an emulated Sapphire Rapids; that of backports does not.
        kernel=$(apt-cache search --names-only '^linux-binary-[0-9].*-cloud-amd64$' |
            cut -d ' ' -f 1 | sort -V | tail -n 1)
        cd "$apt/archives" || exit
        # genisoimage comes with the libraries that it needs.
        apt-get -qq download bochsbios vgabios busybox-static isolinux syslinux-common "$kernel" \
            genisoimage libmagic1t64 libbz2-1.0 zlib1g liblzma5 libc6
        cd "$folder/source" || exit
        apt-get -qq source --download-only --tar-only bochs
    )
    for package in "$apt"/archives/*.deb; do
        dpkg -x "$package" "$folder/root"
    done
    touch "$folder/fetched"
}

# bochs_edit FILE COMMAND: edits by sed, which must find what it changes.
bochs_edit() {
    cp "$1" "$1.before"
    sed -i "$2" "$1"
    if cmp -s "$1" "$1.before"; then
        printf '%s: nothing to edit by %s\n' "$1" "$2" >&2
        return 1
    fi
}

# bochs_mend: corrects the AMX of Bochs 3.0, whose source is the current folder.
bochs_mend() {
    local msr='BX_CPU_THIS_PTR msr.' text
    # Signed bytes are multiplied as unsigned ones.
    bochs_edit cpu/avx/amx.cc '/ DPBDSS(/,/^}/s/Bit8u/Bit8s/g'
    bochs_edit cpu/avx/amx.cc '/ DPBDSU(/,/^}/{/xbyte\[4\]/s/Bit8u/Bit8s/g}'
    bochs_edit cpu/avx/amx.cc '/ DPBDUS(/,/^}/{/ybyte\[4\]/s/Bit8u/Bit8s/g}'
    # Saved tiles change rows and columns, lose half their rows, and count as unused where used.
    bochs_edit cpu/xsave.cc \
        '/xsave_tilecfg_state(bx/,/^}/{s/\.rows/.X/;s/\.bytes_per_row/.rows/;s/\.X/.bytes_per_row/}'
    bochs_edit cpu/xsave.cc 's/row < BX_TILE_REGISTERS/row < BX_TILE_MAX_ROWS/'
    bochs_edit cpu/xsave.cc 's/tile_use_tracker == 0/tile_use_tracker != 0/'
    # What is saved but not to be restored, such as PKRU, is to be passed over.
    text='else if (format \& feature_mask) offset += xsave_restore[feature].len;'
    bochs_edit cpu/xsave.cc "/^ *if (format & feature_mask)\$/{n;n;s/}/& $text/}"
    # Linux gives AMX to processors alone that can withhold it from a thread (XFD): two MSRs, two
    # bits of CPUID, and an exception at the first tile.
    bochs_edit cpu/cpu.h 's/Bit64u ia32_xss;/& Bit64u xfd, xfd_err;/'
    bochs_edit cpu/init.cc "s/${msr}ia32_xss = 0;/& ${msr}xfd = ${msr}xfd_err = 0;/"
    text='msr_desc[0x1c4] = new MSR_Descriptor("XFD", BX_ISA_XSAVES);\n'
    text+='msr_desc[0x1c5] = new MSR_Descriptor("XFD_ERR", BX_ISA_XSAVES);'
    bochs_edit cpu/msr.cc "s/^ *msr_desc\[BX_MSR_XSS\].*/&\n$text/"
    text="case 0x1c4: val64 = ${msr}xfd; break;\ncase 0x1c5: val64 = ${msr}xfd_err; break;\n"
    bochs_edit cpu/msr.cc "/::rdmsr(/,/^}/s/^ *case BX_MSR_XSS:/$text&/"
    text="case 0x1c4: ${msr}xfd = val_64; break;\ncase 0x1c5: ${msr}xfd_err = val_64; break;\n"
    bochs_edit cpu/msr.cc "/::wrmsr(/,/^}/s/^ *case BX_MSR_XSS:/$text&/"
    bochs_edit cpu/cpuid.cc '/support for XFD$/,/ebx = 0/s/|= (1<<3);/|= (1<<3) | (1<<4);/'
    bochs_edit cpu/cpuid.cc \
        's/leaf->ecx = (cpu->ia32_xss_suppmask.*) != 0;/& leaf->ecx |= (subfunction == 18) << 2;/'
    text="{ if (${msr}xfd >> 18 \& 1) { ${msr}xfd_err = 1 << 18; exception(BX_NM_EXCEPTION, 0); }"
    bochs_edit cpu/avx/amx.cc "/::check_tile(\|::TILEZERO/,/^}/s/^{/$text/"
}

# bochs_build FOLDER: the emulator, once; minutes. Needs a C++ compiler and make, and set -e.
bochs_build() {
    local folder=$1
    [[ ! -x $folder/emulator/bochs ]] || return 0
    rm -rf "$folder/emulator"
    mkdir "$folder/emulator"
    tar -xf "$folder"/source/bochs_*.orig.tar.* -C "$folder/emulator" --strip-components=1
    printf 'building Bochs; its log is %s\n' "$folder/emulator.log"
    (
        cd "$folder/emulator" || exit
        bochs_mend
        ./configure --with-nogui --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex \
            --enable-amx --enable-cet --enable-uintr --enable-protection-keys \
            --enable-all-optimizations --enable-monitor-mwait --disable-docbook \
            CFLAGS=-O2 CXXFLAGS=-O2
        make
    ) >"$folder/emulator.log" 2>&1
}

# bochs_image FOLDER TREE IMAGE: an image that boots Linux with the files of TREE, among them init;
# a static busybox comes to TREE/bin. What it is made of lies in IMAGE.parts meanwhile.
bochs_image() {
    local folder=$1 tree=$2 image=$3 parts=$3.parts root=$1/root
    mkdir -p "$tree"/{bin,dev,proc,sys,tmp} "$parts"
    cp "$root/usr/bin/busybox" "$tree/bin/"
    (cd "$tree" && find . | "$root/usr/bin/busybox" cpio -o -H newc) >"$parts/initrd" 2>/dev/null
    cp "$root"/usr/lib/modules/*/vmlinuz "$parts/linux"
    cp "$root/usr/lib/ISOLINUX/isolinux.bin" "$root/usr/lib/syslinux/modules/bios/ldlinux.c32" \
        "$parts/"
    # Bochs stops where Linux asks for ACPI (it fails to leave system management mode).
    cat >"$parts/isolinux.cfg" <<'END'
default guest
prompt 0
label guest
kernel linux
append initrd=initrd console=ttyS0 loglevel=1 mitigations=off nokaslr acpi=off lsm= tsc=reliable
END
    "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
        "$root/usr/bin/genisoimage" -quiet -o "$image" -b isolinux.bin -c boot.cat \
        -no-emul-boot -boot-load-size 4 -boot-info-table "$parts"
    rm -r "$parts"
}

# bochs_run FOLDER MODEL IMAGE CONSOLE SECONDS: boots the image on a processor; what the guest
# writes goes to CONSOLE. Ends at a line "guest ends"; fails where it does not come.
bochs_run() {
    local folder=$1 model=$2 image=$3 console=$4 seconds=$5 emulator status=1
    : >"$console"
    # With fewer instructions a second the guest's clock runs faster, and waiting is shorter.
    cat >"$console.config" <<END
config_interface: textconfig
display_library: nogui
romimage: file="$folder/root/usr/share/bochs/BIOS-bochs-latest"
vgaromimage: file="$folder/root/usr/share/vgabios/vgabios.bin"
cpu: model=$model, count=1, ips=20000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
clock: sync=none
ata0: enabled=1
ata0-master: type=cdrom, path="$image", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev="$console"
log: "$console.bochs"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
END
    "$folder/emulator/bochs" -q -f "$console.config" >"$console.emulator" 2>&1 </dev/null &
    emulator=$!
    for ((; seconds > 0; seconds--)); do
        if grep -qs '^guest ends' "$console"; then
            status=0
            break
        fi
        kill -0 "$emulator" 2>/dev/null || break
        sleep 1
    done
    kill -KILL "$emulator" 2>/dev/null || true
    wait "$emulator" 2>/dev/null || true
    return "$status"
}
