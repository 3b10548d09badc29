// A part of the static program (scripts/lib.sh, build_static): names come from /etc/hosts and DNS, and accounts from /etc/passwd,
// whatever nsswitch.conf says. What else it may name are libraries of the machine that the program runs on, and of another
// glibc than the one in the program: with mdns4_minimal, which desktops have there, looking up a name ended in SIGFPE.
#include <nss.h>
#include <stdlib.h>

__attribute__((constructor)) static void from_files_and_dns(void) {
    if (__nss_configure_lookup("hosts", "files dns") || __nss_configure_lookup("services", "files") ||
        __nss_configure_lookup("passwd", "files") || __nss_configure_lookup("group", "files"))
        abort();
}
