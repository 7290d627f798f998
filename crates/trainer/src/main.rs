//! The `poquelin` program: parse, run, and map how it ended to an exit code.

use std::error::Error as _;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use poquelin::cli::Cli;
use poquelin::{commands, progress};
use tracing_subscriber::EnvFilter;

/// Every training step makes large tensors and drops them again. This allocator keeps their pages
/// for the next step; the system's gives them back and pays for each of them anew.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            if code != 0 {
                progress::to_stderr(&format!("poquelin: {error}"));
                tracing::debug!(source = ?error.source(), "the error's source");
            }
            ExitCode::from(code)
        }
    }
}
