/* Hides instructions of the processor from a program and all that it loads: `make instructions`.
 *
 *     FOLEY_ONLY=avx2 LD_PRELOAD=instructions.so python -m pytest -p no:faulthandler ...
 *
 * avx2: no AVX-512, no VNNI, no AMX. avx512: AVX-512 without VNNI, bfloat16 and AMX. The kernel lets CPUID fault
 * (arch_prctl(2), ARCH_SET_CPUID), and the handler of that fault answers with fewer bits; libraries that choose their
 * kernels by CPUID (ONNX Runtime, oneDNN, OpenVINO, MKL) then take those of an older processor. /proc/cpuinfo is
 * answered with the same flags. Python's faulthandler would take the signal away: it must be off.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))
static int is_avx2; /* else: AVX-512 without VNNI */
static int is_on;

static void let_cpuid(int run) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, run); }

static void answer(int signal, siginfo_t *info, void *context) {
    (void)info;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)r[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) { /* another fault than CPUID's: die of it */
        struct sigaction usual = {.sa_handler = SIG_DFL};
        sigaction(signal, &usual, NULL);
        return;
    }
    unsigned leaf = r[REG_RAX], part = r[REG_RCX], a = leaf, b, c = part, d;
    let_cpuid(1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    let_cpuid(0);
    if (leaf == 7 && part == 0) {
        c &= ~BIT(11);                                 /* avx512_vnni */
        d &= ~(BIT(22) | BIT(23) | BIT(24) | BIT(25)); /* amx_bf16, avx512_fp16, amx_tile, amx_int8 */
        if (is_avx2) {
            b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
            c &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
            d &= ~(BIT(2) | BIT(3) | BIT(8));
        }
    } else if (leaf == 7 && part == 1) {
        a &= ~(BIT(4) | BIT(5)); /* avx_vnni, avx512_bf16 */
        d &= ~BIT(4);            /* avx_vnni_int8 */
    }
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    const char *only = getenv("FOLEY_ONLY");
    if (only == NULL) return;
    is_on = 1, is_avx2 = strcmp(only, "avx2") == 0;
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("this processor cannot let CPUID fault\n", stderr);
        _exit(70);
    }
}

/* /proc/cpuinfo without the words that are hidden. */
static int open_cpuinfo(int (*real)(const char *, int, ...)) {
    static const char *const hidden[] = {"avx512_vnni", "avx_vnni", "amx_", "avx512_bf16", "avx512_fp16", "avx512"};
    int from = real("/proc/cpuinfo", O_RDONLY), to = memfd_create("cpuinfo", 0);
    static char text[1 << 22];
    ssize_t size = 0, got;
    while ((got = read(from, text + size, sizeof text - 1 - size)) > 0) size += got;
    text[size] = 0;
    close(from);
    for (size_t n = 0; n < sizeof hidden / sizeof *hidden - !is_avx2; n++)
        for (char *at = text; (at = strstr(at, hidden[n])); at++) *at = '-';
    if (write(to, text, size) != size) _exit(70);
    lseek(to, 0, SEEK_SET);
    return to;
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        static int (*real)(const char *, int, ...);                       \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        int mode = va_arg(rest, int);                                     \
        va_end(rest);                                                     \
        if (is_on && strcmp(path, "/proc/cpuinfo") == 0) return open_cpuinfo(real); \
        return real(path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)
