//! The file system, through the bindings: the standard library has no word for half of it.

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

const NO: PathFlags = PathFlags::empty();
const READ: DescriptorFlags = DescriptorFlags::READ;

/// Works through the first folder that the host gives. What is in it: `file` with `hello`, a symbolic link `out` that leads out of it,
/// and `in`, which leads to `file`.
pub(crate) fn report() {
    let folders = get_directories();
    println!("folders: {:?}", folders.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>());
    let Some((folder, _)) = folders.first() else { return };
    reading(folder);
    escaping(folder);
    writing(folder);
}

fn reading(folder: &Descriptor) {
    tell("type", folder.get_type());
    tell("missing", open(folder, "missing"));
    tell("missing stat", folder.stat_at(NO, "missing").map(drop));
    tell("a file as a folder", folder.open_at(NO, "file", OpenFlags::DIRECTORY, READ).map(drop));
    tell("empty path", open(folder, ""));
    let Ok(file) = folder.open_at(NO, "file", OpenFlags::empty(), READ) else { return };
    tell("size", file.stat().map(|stat| stat.size));
    tell("read", file.read(3, 1).map(|(octets, end)| (text(&octets), end)));
    tell("read to the end", file.read(10, 0).map(|(octets, _)| text(&octets)));
    tell("read beyond", file.read(10, 99).map(|(octets, end)| (octets.len(), end)));
    tell("write to what is read", file.write(b"x", 0));
    println!("same object: {}", open_again(folder, "file").is_some_and(|again| again.is_same_object(&file)));
    let hash = |path| folder.metadata_hash_at(NO, path).map(|hash| (hash.lower, hash.upper));
    println!("same hash: {}", hash("file").is_ok_and(|first| hash("file").is_ok_and(|again| first == again)));
    let mut names: Vec<String> = Vec::new();
    if let Ok(entries) = folder.read_directory() {
        while let Ok(Some(entry)) = entries.read_directory_entry() {
            names.push(format!("{} {:?}", entry.name, entry.type_));
        }
    }
    names.sort();
    println!("entries: {names:?}");
}

fn escaping(folder: &Descriptor) {
    for path in ["..", "../secret", "sub/../../secret", "/etc/passwd", "out"] {
        tell(&format!("open {path}"), follow(folder, path));
    }
    tell("follow a link inside", follow(folder, "in"));
    tell("not follow it", open(folder, "in"));
    tell("read the link", folder.readlink_at("in"));
    tell("absolute link", folder.symlink_at("/etc/passwd", "evil"));
    tell("rename out", folder.rename_at("file", folder, "../stolen"));
}

fn writing(folder: &Descriptor) {
    let all = READ | DescriptorFlags::WRITE;
    let created = folder.open_at(NO, "new", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, all);
    tell("create", created.as_ref().map(drop).map_err(|code| *code));
    tell("unlink missing", folder.unlink_file_at("missing"));
    tell("make a folder", folder.create_directory_at("made"));
    let Ok(file) = created else {
        tell("truncate", folder.open_at(NO, "file", OpenFlags::TRUNCATE, all).map(drop));
        tell("unlink", folder.unlink_file_at("file"));
        tell("rename", folder.rename_at("file", folder, "other"));
        tell("link", folder.symlink_at("file", "link"));
        return;
    };
    tell("create again", folder.open_at(NO, "new", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, all).map(drop));
    tell("write", file.write(b"abcdef", 0));
    tell("write in a gap", file.write(b"z", 8));
    tell("grown", file.read(20, 0).map(|(octets, _)| text(&octets)));
    tell("shrink", file.set_size(3));
    tell("shrunk", file.stat().map(|stat| stat.size));
    let appended = file.append_via_stream().map(|stream| stream.blocking_write_and_flush(b"+end").is_ok());
    tell("append", appended);
    tell("appended", file.read(20, 0).map(|(octets, _)| text(&octets)));
    tell(
        "truncate",
        folder
            .open_at(NO, "new", OpenFlags::TRUNCATE, all)
            .and_then(|file| file.stat())
            .map(|stat| stat.size),
    );
    tell("rename", folder.rename_at("new", folder, "renamed"));
    tell("the old name", open(folder, "new"));
    tell("remove a file as a folder", folder.remove_directory_at("renamed"));
    println!("unlink a folder fails: {}", folder.unlink_file_at("made").is_err());
    tell("make it again", folder.create_directory_at("made"));
    tell("rename into it", folder.rename_at("renamed", folder, "made/inside"));
    tell("remove it full", folder.remove_directory_at("made"));
    tell("unlink", folder.unlink_file_at("made/inside"));
    tell("remove it", folder.remove_directory_at("made"));
}

fn open(folder: &Descriptor, path: &str) -> Result<(), ErrorCode> {
    folder.open_at(NO, path, OpenFlags::empty(), READ).map(drop)
}

fn open_again(folder: &Descriptor, path: &str) -> Option<Descriptor> {
    folder.open_at(NO, path, OpenFlags::empty(), READ).ok()
}

fn follow(folder: &Descriptor, path: &str) -> Result<(), ErrorCode> {
    folder.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), READ).map(drop)
}

/// One line: the value, or the error by the name that the specification gives it.
fn tell<T: std::fmt::Debug>(what: &str, answer: Result<T, ErrorCode>) {
    match answer {
        Ok(value) => println!("{what}: {value:?}"),
        Err(code) => println!("{what}: {}", code.name()),
    }
}

fn text(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}
