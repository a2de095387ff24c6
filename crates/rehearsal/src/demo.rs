//! The play and the project of the demonstration.
//!
//! The project is a small Python module with a failing check. The play finds the fault by what its tools really
//! return: the names, the file, the line and the result of the check are captured from real output, so the play
//! cannot end well unless the tools really ran.

/// The scenario file of the demonstration.
pub const SCENARIO: &str = include_str!("../scenarios/demo.toml");

/// What the user asks for.
pub const TASK: &str = "The check of this project fails: run ./check.sh to see it. Find out why, mend the code (not \
                        the tests), and show that the check passes.";

/// The command whose exit code says whether the project is sound.
pub const CHECK: &str = "sh check.sh";

/// The files of the project: path and contents. `check.sh` is meant to be executable.
pub fn project() -> &'static [(&'static str, &'static str)] {
    &[
        ("README.md", include_str!("../scenarios/demo/README.md")),
        ("check.sh", include_str!("../scenarios/demo/check.sh")),
        (
            "parcels/__init__.py",
            include_str!("../scenarios/demo/parcels/__init__.py"),
        ),
        ("parcels/rates.py", include_str!("../scenarios/demo/parcels/rates.py")),
        ("parcels/quote.py", include_str!("../scenarios/demo/parcels/quote.py")),
        ("tests/__init__.py", include_str!("../scenarios/demo/tests/__init__.py")),
        (
            "tests/test_quote.py",
            include_str!("../scenarios/demo/tests/test_quote.py"),
        ),
    ]
}
