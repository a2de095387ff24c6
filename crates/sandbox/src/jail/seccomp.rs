//! The system call filter: what may be called, compiled to the kernel's BPF.
//!
//! The policy is an allow-list. A call that is known and refused gets `EPERM`; a number that is not known gets
//! `ENOSYS`, so programs that try a newer call fall back. Calls of another architecture kill the process: they would
//! mean other numbers. Conditions on arguments look at integers only, never at memory, which can change after the
//! look. So calls that hide their arguments behind a pointer (`clone3`, and `openat2` for the workload) are `ENOSYS`.
//!
//! The program is a binary search over ranges of numbers, not a list: the kernel evaluates a filter for every number
//! when it is installed, and that is on the way of a sandbox's start.

use super::sys::Instruction;
use super::syscalls::{ALLOWED, GUARDED, Guard, REFUSED};

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const REFUSE: u32 = ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = ERRNO | libc::ENOSYS as u32;
const NO_FAMILY: u32 = ERRNO | libc::EAFNOSUPPORT as u32;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// What a range of numbers gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Return(u32),
    Guard(Guard),
}

/// The filter that every process of a sandbox runs under, the hand included.
pub(crate) fn base_filter() -> Vec<Instruction> {
    compile(&segments(false))
}

/// The same where packages are installed, with file modes as packages have them: its files lie where nobody of the host
/// gets to, and those bits are dropped when they are kept.
pub(crate) fn build_filter() -> Vec<Instruction> {
    compile(&segments(true))
}

fn compile(segments: &[(u32, Action)]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD, ARCHITECTURE_AT),
        branch(EQUAL, ARCHITECTURE, 1, 0),
        op(RETURN, KILL),
        op(LOAD, NUMBER_AT),
    ];
    program.extend(search(segments));
    program
}

/// The filter that the shell, and so everything it starts, runs under besides: no `openat2`, whose file mode cannot be
/// looked at, so that no file with a set-uid bit can be made in the workspace.
pub(crate) fn workload_filter() -> Vec<Instruction> {
    vec![
        op(LOAD, NUMBER_AT),
        branch(EQUAL, libc::SYS_openat2 as u32, 0, 1),
        op(RETURN, UNKNOWN),
        op(RETURN, ALLOW),
    ]
}

/// Start of each range of numbers with one action, in order; the first starts at 0.
fn segments(any_mode: bool) -> Vec<(u32, Action)> {
    let mut table = std::collections::BTreeMap::new();
    let number = |call: libc::c_long| call as u32;
    for call in ALLOWED {
        table.insert(number(*call), Action::Return(ALLOW));
    }
    for call in REFUSED {
        table.insert(number(*call), Action::Return(REFUSE));
    }
    for (call, guard) in GUARDED {
        let action = match guard {
            Guard::PlainMode(_) | Guard::OpenMode { .. } if any_mode => Action::Return(ALLOW),
            guard => Action::Guard(*guard),
        };
        table.insert(number(*call), action);
    }
    let mut segments: Vec<(u32, Action)> = Vec::new();
    let mut next = 0;
    for (call, action) in table {
        if call > next {
            join(&mut segments, next, Action::Return(UNKNOWN));
        }
        join(&mut segments, call, action);
        next = call + 1;
    }
    join(&mut segments, next, Action::Return(UNKNOWN));
    segments
}

fn join(segments: &mut Vec<(u32, Action)>, start: u32, action: Action) {
    if segments.last().is_none_or(|(_, last)| *last != action) {
        segments.push((start, action));
    }
}

/// Code that finds the range of the loaded number and acts. Far jumps are avoided by putting the far half second
/// behind an unconditional choice only when its distance fits; otherwise the near half is entered over a jump.
fn search(segments: &[(u32, Action)]) -> Vec<Instruction> {
    match segments {
        [] => vec![op(RETURN, UNKNOWN)],
        [(_, action)] => match action {
            Action::Return(value) => vec![op(RETURN, *value)],
            Action::Guard(guard) => guarded(*guard),
        },
        _ => {
            let (low, high) = segments.split_at(segments.len() / 2);
            let pivot = high.first().map_or(0, |(start, _)| *start);
            let low = search(low);
            let high = search(high);
            let mut code = Vec::with_capacity(low.len() + high.len() + 2);
            if let Ok(distance) = u8::try_from(low.len()) {
                code.push(branch(AT_LEAST, pivot, distance, 0));
            } else {
                code.push(branch(AT_LEAST, pivot, 0, 1));
                code.push(op(0x05, low.len() as u32));
            }
            code.extend(low);
            code.extend(high);
            code
        }
    }
}

/// Checks of arguments, each ending in a return.
fn guarded(guard: Guard) -> Vec<Instruction> {
    match guard {
        // No flag of a new namespace.
        Guard::CloneFlags => vec![
            low(0),
            op(AND, super::sys::ALL_NAMESPACES as u32 | libc::CLONE_NEWTIME as u32),
            branch(EQUAL, 0, 0, 1),
            op(RETURN, ALLOW),
            op(RETURN, REFUSE),
        ],
        // Unix, IPv4 and IPv6; streams, datagrams and sequenced packets; no raw protocol.
        Guard::Socket => {
            let type_mask = !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
            vec![
                low(0),
                branch(EQUAL, libc::AF_UNIX as u32, 3, 0),
                branch(EQUAL, libc::AF_INET as u32, 2, 0),
                branch(EQUAL, libc::AF_INET6 as u32, 1, 0),
                op(RETURN, NO_FAMILY),
                low(1),
                op(AND, type_mask),
                branch(EQUAL, libc::SOCK_STREAM as u32, 3, 0),
                branch(EQUAL, libc::SOCK_DGRAM as u32, 2, 0),
                branch(EQUAL, libc::SOCK_SEQPACKET as u32, 1, 0),
                op(RETURN, REFUSE),
                op(RETURN, ALLOW),
            ]
        }
        // Pushing bytes into a terminal's input, pasting its selection, and taking a terminal over.
        Guard::Ioctl => vec![
            low(1),
            branch(EQUAL, libc::TIOCSTI as u32, 4, 0),
            branch(EQUAL, libc::TIOCLINUX as u32, 3, 0),
            branch(EQUAL, libc::TIOCSETD as u32, 2, 0),
            branch(EQUAL, libc::TIOCCONS as u32, 1, 0),
            op(RETURN, ALLOW),
            op(RETURN, REFUSE),
        ],
        // The default personality, 32-bit names for it, and asking which one is set.
        Guard::Personality => vec![
            low(0),
            branch(EQUAL, 0, 3, 0),
            branch(EQUAL, 0x0008, 2, 0),
            branch(EQUAL, 0xffff_ffff, 1, 0),
            op(RETURN, REFUSE),
            op(RETURN, ALLOW),
        ],
        // Limits of the caller only: the hand has the same uid.
        Guard::OwnProcess => vec![low(0), branch(EQUAL, 0, 0, 1), op(RETURN, ALLOW), op(RETURN, REFUSE)],
        // A file mode without set-uid and set-gid bits, in the given argument.
        Guard::PlainMode(argument) => no_special_bits(argument),
        // The same where a file is made; without O_CREAT or O_TMPFILE the mode means nothing.
        Guard::OpenMode { flags, mode } => {
            let making = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
            let mut code = vec![low(flags), op(AND, making), branch(EQUAL, 0, 0, 1), op(RETURN, ALLOW)];
            code.extend(no_special_bits(mode));
            code
        }
        // Everything but turning dumping, seccomp, speculation guards or no_new_privs about is the caller's own
        // matter; being traced by others and reading of memory layout belong to checkpointing.
        Guard::Prctl => vec![
            low(0),
            branch(EQUAL, libc::PR_SET_MM as u32, 2, 0),
            branch(EQUAL, libc::PR_SET_PTRACER as u32, 1, 0),
            op(RETURN, ALLOW),
            op(RETURN, REFUSE),
        ],
    }
}

fn no_special_bits(argument: u32) -> Vec<Instruction> {
    vec![
        low(argument),
        op(AND, libc::S_ISUID | libc::S_ISGID),
        branch(EQUAL, 0, 0, 1),
        op(RETURN, ALLOW),
        op(RETURN, REFUSE),
    ]
}

/// Loads the low half of an argument. The kernel reads these arguments as 32-bit values itself, so the high half
/// means nothing to it.
fn low(argument: u32) -> Instruction {
    op(LOAD, 16 + argument * 8)
}

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut accumulator = 0_u32;
        let mut at = 0_usize;
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD if k == NUMBER_AT => accumulator = number,
                LOAD if k == ARCHITECTURE_AT => accumulator = architecture,
                LOAD => {
                    let offset = k as usize - 16;
                    let value = arguments[offset / 8];
                    accumulator = if offset.is_multiple_of(8) {
                        value as u32
                    } else {
                        (value >> 32) as u32
                    };
                }
                AND => accumulator &= k,
                EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                AT_LEAST => at += usize::from(if accumulator >= k { jt } else { jf }),
                0x05 => at += k as usize,
                RETURN => return k,
                other => panic!("unknown code {other}"),
            }
        }
    }

    fn base(number: libc::c_long, arguments: [u64; 6]) -> u32 {
        run(&base_filter(), ARCHITECTURE, number as u32, arguments)
    }

    #[test]
    fn every_number_gets_what_the_table_says() {
        let program = base_filter();
        assert!(
            program.len() < 1024,
            "the kernel takes 4096, and each costs time at a sandbox's start: {}",
            program.len()
        );
        for number in 0..2048_u32 {
            let call = libc::c_long::from(number);
            let got = run(&program, ARCHITECTURE, number, [0; 6]);
            let guard = GUARDED.iter().find(|(guarded, _)| *guarded == call);
            if let Some((_, guard)) = guard {
                assert_ne!(got, UNKNOWN, "{number} is guarded by {guard:?}");
            } else if REFUSED.contains(&call) {
                assert_eq!(got, REFUSE, "{number}");
            } else if ALLOWED.contains(&call) {
                assert_eq!(got, ALLOW, "{number}");
            } else {
                assert_eq!(got, UNKNOWN, "{number}");
            }
        }
    }

    #[test]
    fn no_call_is_in_two_lists() {
        for call in ALLOWED {
            assert!(!REFUSED.contains(call), "{call} is allowed and refused");
            assert!(
                GUARDED.iter().all(|(guarded, _)| guarded != call),
                "{call} is allowed and guarded"
            );
        }
        for call in REFUSED {
            assert!(
                GUARDED.iter().all(|(guarded, _)| guarded != call),
                "{call} is refused and guarded"
            );
        }
    }

    #[test]
    fn other_architectures_and_number_spaces_are_closed() {
        assert_eq!(run(&base_filter(), 0x4000_0003, 1, [0; 6]), KILL);
        assert_eq!(base(0x4000_0000 | libc::SYS_ptrace, [0; 6]), UNKNOWN);
        assert_eq!(base(0x4000_0000 | libc::SYS_read, [0; 6]), UNKNOWN);
        assert_eq!(run(&base_filter(), ARCHITECTURE, u32::MAX, [0; 6]), UNKNOWN);
    }

    #[test]
    fn arguments_decide() {
        let first = |value: u64| [value, 0, 0, 0, 0, 0];
        let second = |a: u64, b: u64| [a, b, 0, 0, 0, 0];
        assert_eq!(base(libc::SYS_clone, first(libc::SIGCHLD as u64)), ALLOW);
        for flag in [
            0x1000_0000_u64,
            0x2000_0000,
            0x4000_0000,
            0x0002_0000,
            0x0200_0000,
            0x80,
        ] {
            assert_eq!(base(libc::SYS_clone, first(flag)), REFUSE, "{flag:#x}");
            assert_eq!(
                base(libc::SYS_clone, first(flag | 0xffff_ffff_0000_0000)),
                REFUSE,
                "{flag:#x}"
            );
        }
        for (family, kind, want) in [
            (libc::AF_UNIX, libc::SOCK_STREAM, ALLOW),
            (libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, ALLOW),
            (libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, ALLOW),
            (libc::AF_INET, libc::SOCK_RAW, REFUSE),
            (libc::AF_NETLINK, libc::SOCK_DGRAM, NO_FAMILY),
            (libc::AF_PACKET, libc::SOCK_RAW, NO_FAMILY),
            (libc::AF_VSOCK, libc::SOCK_STREAM, NO_FAMILY),
            (libc::AF_ALG, libc::SOCK_SEQPACKET, NO_FAMILY),
        ] {
            assert_eq!(
                base(libc::SYS_socket, second(family as u64, kind as u64)),
                want,
                "{family} {kind}"
            );
        }
        assert_eq!(base(libc::SYS_ioctl, second(0, 0x5401)), ALLOW);
        assert_eq!(base(libc::SYS_ioctl, second(0, 0x5412)), REFUSE);
        assert_eq!(base(libc::SYS_ioctl, second(0, 0xdead_beef_0000_5412)), REFUSE);
        assert_eq!(base(libc::SYS_personality, first(0x0040_0000)), REFUSE);
        assert_eq!(base(libc::SYS_personality, first(0xffff_ffff)), ALLOW);
        assert_eq!(base(libc::SYS_prlimit64, first(0)), ALLOW);
        assert_eq!(base(libc::SYS_prlimit64, first(1)), REFUSE);
        assert_eq!(base(libc::SYS_fchmodat, [0, 0, 0o4755, 0, 0, 0]), REFUSE);
        assert_eq!(base(libc::SYS_fchmodat, [0, 0, 0o755, 0, 0, 0]), ALLOW);
        let create = (libc::O_CREAT | libc::O_WRONLY) as u64;
        assert_eq!(base(libc::SYS_openat, [0, 0, create, 0o2755, 0, 0]), REFUSE);
        assert_eq!(base(libc::SYS_openat, [0, 0, create, 0o644, 0, 0]), ALLOW);
        assert_eq!(base(libc::SYS_openat, [0, 0, 0, 0o7777, 0, 0]), ALLOW);
        let nameless = (libc::O_TMPFILE | libc::O_WRONLY) as u64;
        assert_eq!(base(libc::SYS_openat, [0, 0, nameless, 0o4755, 0, 0]), REFUSE);
        assert_eq!(
            base(libc::SYS_openat, [0, 0, libc::O_DIRECTORY as u64, 0o4755, 0, 0]),
            ALLOW
        );
    }

    #[test]
    fn only_installing_makes_special_files_modes() {
        let build = |number: libc::c_long, arguments| run(&build_filter(), ARCHITECTURE, number as u32, arguments);
        assert_eq!(build(libc::SYS_fchmodat, [0, 0, 0o4755, 0, 0, 0]), ALLOW);
        let create = (libc::O_CREAT | libc::O_WRONLY) as u64;
        assert_eq!(build(libc::SYS_openat, [0, 0, create, 0o2755, 0, 0]), ALLOW);
        // Everything else is as everywhere.
        for number in 0..2048 {
            let is_mode = GUARDED.iter().any(|(guarded, guard)| {
                *guarded == number && matches!(guard, Guard::PlainMode(_) | Guard::OpenMode { .. })
            });
            for first in [0, 0x1000_0000, u64::MAX] {
                let arguments = [first, 0, 0, 0, 0, 0];
                if !is_mode {
                    assert_eq!(build(number, arguments), base(number, arguments), "{number}");
                }
            }
        }
    }

    #[test]
    fn the_workload_has_no_openat2() {
        let filter = workload_filter();
        assert_eq!(run(&filter, ARCHITECTURE, libc::SYS_openat2 as u32, [0; 6]), UNKNOWN);
        assert_eq!(run(&filter, ARCHITECTURE, libc::SYS_openat as u32, [0; 6]), ALLOW);
    }
}
