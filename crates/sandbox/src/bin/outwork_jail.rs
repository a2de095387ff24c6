//! The sandbox's launcher as a program of its own.
//!
//! `outwork` carries the same entry inside itself; this small binary exists for the crate's tests, for its
//! bench, and for asking a machine what it can isolate: without arguments it prints the probe.

fn main() -> std::process::ExitCode {
    outwork_sandbox::entry();
    let report = outwork_sandbox::probe();
    print!("{report}");
    if report.ready() {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}
