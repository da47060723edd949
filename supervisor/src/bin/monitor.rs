//! The parent of all processes of one pod.

fn main() -> std::process::ExitCode {
    supervisor::monitor::main()
}
