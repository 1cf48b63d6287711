//! `ottla completion`: scripts that let a shell complete commands and options.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::CommandResult;
use crate::output;

/// Options of `ottla completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell; for bash, `source <(ottla completion bash)`
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionArgs) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ottla", &mut script);
    Ok(output::print_text(&String::from_utf8_lossy(&script))?)
}
