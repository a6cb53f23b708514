//! What is linked into the binaries, from `cargo metadata` on standard input: `bill sbom VERSION EPOCH` prints a CycloneDX
//! 1.5 list, `bill licences VERSION EPOCH` every licence text. Only what reaches the binaries counts: neither tests' crates
//! nor those that ran while building, whose code stays behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, version, epoch] = &arguments[..] else {
        return Err("usage: bill sbom|licences VERSION EPOCH".into());
    };
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let packages = linked(&serde_json::from_str(&text)?);
    let printed = match what.as_str() {
        "sbom" => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch.parse()?);
            serde_json::to_string_pretty(&sbom(&packages, version, time))? + "\n"
        }
        _ => licences(&packages)?,
    };
    std::io::stdout().write_all(printed.as_bytes())?;
    Ok(())
}

/// The packages that are linked in, by name and version, the project's own first left out.
fn linked(metadata: &Value) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let root = text(&metadata["resolve"]["root"]);
    let (mut found, mut waiting) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = waiting.pop() {
        let is_macro = list(&packages[&id]["targets"])
            .iter()
            .any(|target| list(&target["kind"]).contains(&json!("proc-macro")));
        if is_macro || !found.insert(id.clone()) {
            continue;
        }
        for dependency in list(&nodes[&id]["deps"]) {
            // `null` is an ordinary dependency; the others are `dev` and `build`.
            if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                waiting.push(text(&dependency["pkg"]));
            }
        }
    }
    found.remove(&root);
    let mut linked: Vec<Value> = found.iter().map(|id| packages[id].clone()).collect();
    linked.sort_by_key(|package| (text(&package["name"]), text(&package["version"])));
    linked
}

fn sbom(packages: &[Value], version: &str, time: SystemTime) -> Value {
    let components: Vec<Value> = packages
        .iter()
        .map(|package| {
            let url = format!("pkg:cargo/{}@{}", word(package, "name"), word(package, "version"));
            json!({
                "type": "library",
                "bom-ref": url,
                "name": package["name"],
                "version": package["version"],
                "licenses": [{"expression": word(package, "license").replace('/', " OR ")}],
                "purl": url,
            })
        })
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": humantime::format_rfc3339_seconds(time).to_string(),
            "component": {"type": "application", "name": "longshore", "version": version},
        },
        "components": components,
    })
}

fn licences(packages: &[Value]) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::from(
        "The texts that come with everything that is linked into the binaries. The Rust standard library is under MIT or\n\
         Apache-2.0, musl under MIT, LLVM's libunwind under Apache-2.0 with LLVM exceptions.\n",
    );
    for package in packages {
        let (name, version, license) =
            (word(package, "name"), word(package, "version"), word(package, "license"));
        text += &format!("\n======== {name} {version}: {license}\n");
        let dir = Path::new(word(package, "manifest_path")).parent().ok_or("a manifest has a directory")?;
        let mut files: Vec<_> = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let name = file.file_name().to_string_lossy().to_ascii_uppercase();
            let is_licence = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"]
                .iter()
                .any(|word| name.starts_with(word));
            if is_licence && file.file_type()?.is_file() {
                let content = String::from_utf8_lossy(&fs::read(file.path())?).into_owned();
                text += &format!("\n-------- {}\n\n{}\n", file.file_name().display(), content.trim_end());
            }
        }
    }
    Ok(text)
}

fn word<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}
