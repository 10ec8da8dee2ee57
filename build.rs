//! Lists the files in `sql/migrations` for `src/db/migrate.rs`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn Error>> {
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
