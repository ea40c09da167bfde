//! `new`: writes a starter file. No servers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Exit;

/// Arguments of `new`.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The file to write; its name becomes the topology's. One that is there is left alone.
    topology: PathBuf,
    /// What to start from.
    #[arg(long, default_value = "count")]
    template: Template,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Template {
    /// Counts per key and minute, from topic to topic.
    Count,
    /// One call of an API per settled key, its answer to a topic.
    Enrich,
    /// A stream joined with a table.
    Join,
}

pub(super) fn new(args: &NewArgs) -> Result<(), Exit> {
    let text = match args.template {
        Template::Count => include_str!("starters/count.yaml"),
        Template::Enrich => include_str!("starters/enrich.yaml"),
        Template::Join => include_str!("starters/join.yaml"),
    };
    let path = &args.topology;
    let wrong = |message: String| Exit { code: 2, message: Some(format!("error: {message}")) };
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(wrong(format!(
            "`{name}` is no name for a topology: write a file name of letters, digits, `-`, `_` and `.`"
        )));
    }
    let file = std::fs::File::options().write(true).create_new(true).open(path);
    let mut file = file.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => wrong(format!("{} is there already", path.display())),
        _ => wrong(format!("cannot write {}: {e}", path.display())),
    })?;
    std::io::Write::write_all(&mut file, text.replace("NAME", name).as_bytes())
        .map_err(|e| wrong(format!("cannot write {}: {e}", path.display())))?;
    let path = path.display();
    println!(
        "wrote {path}; next: slackwater test {path} · slackwater explain {path} · slackwater dev {path}"
    );
    Ok(())
}
