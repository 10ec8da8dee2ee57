//! Lists the files in `sql/migrations` for `src/db/migrate.rs`, and finds out which commit this is.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-env=TEXTGEN_COMMIT={}", commit());
    list_migrations()
}

/// The commit of a release, for `textgen --version`: `TEXTGEN_COMMIT`, or that of the repository. Other builds are not made
/// anew for each commit.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=TEXTGEN_COMMIT");
    if let Some(commit) = env::var("TEXTGEN_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return "development".to_owned();
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let branch = git(&["symbolic-ref", "-q", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "packed-refs", &branch].into_iter().filter(|name| !name.is_empty()) {
        // A file that is not there would have cargo build it anew each time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn list_migrations() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=sql/migrations");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("sql/migrations");
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    let mut paths: Vec<_> = paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "sql")).collect();
    paths.sort();
    let mut list = String::from("&[\n");
    for (path, number) in paths.iter().zip(1..) {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let Some(name) = stem.strip_prefix(&format!("{number:04}_")) else {
            return Err(format!("sql/migrations/{stem}.sql should be called {number:04}_NAME.sql").into());
        };
        let path = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/sql/migrations/{stem}.sql\")");
        list += &format!("    (\"V{number}__{name}\", include_str!({path})),\n");
    }
    list += "]\n";
    fs::write(Path::new(&env::var("OUT_DIR")?).join("migrations.rs"), list)?;
    Ok(())
}
