//! The program of `docs/own-kinds/`, for tests with servers and without.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The example's program, built by the cargo that runs this test.
pub fn program() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_slackwater")).parent().expect("a folder");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--example", "own_kinds", "--manifest-path"]);
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    // Whoever runs the tests with it would have every dependency built anew.
    build.env_remove("RUSTC_BOOTSTRAP");
    build.arg("--target-dir").arg(folder.parent().expect("a folder"));
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    folder.join("examples/own_kinds")
}
