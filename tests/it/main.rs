//! All tests against real processes, in one binary.

mod cri;
mod pause;
mod pause_image;
mod pause_tools;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut trials = Vec::new();
    for (area, tests) in [
        ("pause", pause::tests()),
        ("pause_image", pause_image::tests()),
    ] {
        for (name, test) in tests {
            trials.push(Trial::test(format!("{area}::{name}"), move || {
                test().map_err(|error| format!("{error:?}").into())
            }));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
