//! The command line and the node service.

fn main() -> std::process::ExitCode {
    supervisor::cli::main()
}
