use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder for one test, removed when it ends.
pub struct Folder(TempDir);

/// What the program did.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.join(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_poquelin");
        let mut command = match hears_signals() {
            true => Command::new(program),
            // What ignores them, as `nohup` does, hands that on; GNU's `env` takes it back.
            false => {
                let mut command = Command::new("env");
                command.args(["--default-signal=HUP,INT,TERM", program]);
                command
            }
        };
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        done(self.command(arguments).output().unwrap())
    }

    /// Runs the program and expects it to succeed.
    pub fn ok(&self, arguments: &[&str]) -> Done {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}\n{}\n{}", done.stdout, done.stderr);
        done
    }

    /// All files and folders in it, by their paths, and what they hold.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(self.path())
    }
}

/// All files and folders in a folder and those in it, by their paths, and what they hold.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                found.extend(files(&path));
                found.insert(format!("{}/", path.display()), Vec::new());
            }
            false => {
                found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Whether this process has the signals that ask a run to stop as they are by default.
fn hears_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    [1, 2, 15].iter().all(|signal| mask >> (signal - 1) & 1 == 0)
}

pub fn done(output: Output) -> Done {
    Done {
        code: output.status.code().expect("the program was not killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A text of about `length` characters that a small model can learn something of.
pub fn text(length: usize) -> String {
    let verse = "Le temps s'en va, le temps s'en va, madame;\nla pendule sonne, où vas-tu?\n";
    verse.chars().cycle().take(length).collect()
}

/// A configuration that trains in a blink.
pub const TINY: &str = r#"
[data]
text = "text.txt"
test = 0.1
valid = 0.1
batch = 2
sequence = 16
[model]
embedding = 8
hidden = 12
layers = 2
dropout = 0.1
dropout_output = 0.1
[train]
epochs = 2
seed = 3
threads = 1
[sample]
length = 20
"#;

/// A folder with a text and the tiny configuration.
pub fn tiny() -> Folder {
    let folder = Folder::new();
    folder.write("text.txt", text(2_000));
    folder.write("tiny.toml", TINY);
    folder
}

/// A CPU device of this build.
pub const CPU: &str = if cfg!(feature = "ndarray") { "ndarray" } else { "flex" };

/// `train` on the tiny configuration, on the CPU.
pub const TRAIN: [&str; 5] = ["train", "--config", "tiny.toml", "--device", CPU];

/// The arguments of both, one behind the other.
pub fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}
