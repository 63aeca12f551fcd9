//! The file system.

use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wasip3::wit_stream;

use crate::{Told, read};

const NO: PathFlags = PathFlags::empty();

/// Works through the first folder that the host gives. What is in it: `file` with `hello`, a symbolic link `out` that leads out of it,
/// and `in`, which leads to `file`.
pub(crate) async fn report(told: &mut Told) {
    let folders = get_directories();
    told.line("folders", folders.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>());
    let Some((folder, _)) = folders.first() else { return };
    told.answer("missing", open(folder, "missing", OpenFlags::empty()).await.map(drop));
    told.answer("a file as a folder", open(folder, "file", OpenFlags::DIRECTORY).await.map(drop));
    told.answer("unlink missing", folder.unlink_file_at("missing".to_owned()).await);
    if let Ok(file) = open(folder, "file", OpenFlags::empty()).await {
        let (stream, end) = file.read_via_stream(1);
        told.line("read", text(&read(stream).await));
        told.answer("read to its end", end.await);
        told.answer("size", file.stat().await.map(|stat| stat.size));
        let (first, again) =
            (file.metadata_hash().await, folder.metadata_hash_at(NO, "file".to_owned()).await);
        told.line(
            "same hash",
            matches!((first, again), (Ok(a), Ok(b)) if (a.lower, a.upper) == (b.lower, b.upper)),
        );
    }
    entries(folder, told).await;
    for path in ["..", "../secret", "sub/../../secret", "/etc/passwd", "out"] {
        let opened = folder.open_at(
            PathFlags::SYMLINK_FOLLOW,
            path.to_owned(),
            OpenFlags::empty(),
            DescriptorFlags::READ,
        );
        told.answer(&format!("open {path}"), opened.await.map(drop));
    }
    told.answer("rename out", folder.rename_at("file".to_owned(), folder, "../stolen".to_owned()).await);
    write(folder, told).await;
}

async fn entries(folder: &Descriptor, told: &mut Told) {
    let (mut stream, end) = folder.read_directory();
    let mut names = Vec::new();
    while let Some(entry) = stream.next().await {
        names.push(entry.name);
    }
    names.sort();
    told.line("entries", names);
    told.answer("entries to their end", end.await);
}

async fn write(folder: &Descriptor, told: &mut Told) {
    let all = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let create = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    let created = folder.open_at(NO, "new".to_owned(), create, all).await;
    told.answer("create", created.as_ref().map(drop));
    let Ok(file) = created else { return };
    told.answer("create again", folder.open_at(NO, "new".to_owned(), create, all).await.map(drop));
    let (mut writer, reader) = wit_stream::new();
    let written = file.write_via_stream(reader, 2);
    writer.write_all(b"abc".to_vec()).await;
    drop(writer);
    told.answer("write", written.await);
    let (mut writer, reader) = wit_stream::new();
    let appended = file.append_via_stream(reader);
    writer.write_all(b"+end".to_vec()).await;
    drop(writer);
    told.answer("append", appended.await);
    told.line("written", text(&read(file.read_via_stream(0).0).await));
    told.answer("shrink", file.set_size(3).await);
    told.answer("shrunk", file.stat().await.map(|stat| stat.size));
    told.answer("unlink", folder.unlink_file_at("new".to_owned()).await);
}

async fn open(folder: &Descriptor, path: &str, flags: OpenFlags) -> Result<Descriptor, ErrorCode> {
    folder.open_at(NO, path.to_owned(), flags, DescriptorFlags::READ).await
}

fn text(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}
