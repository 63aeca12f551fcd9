//! Entries of a POSIX archive, read and written one after the other, with what pax adds to a header that has no room for it.
//!
//! Here it is bounded what reading an archive may cost; what may be done with an entry is a matter of [`super::restore`]. Archives of GNU tar
//! are read, too.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

const BLOCK_BYTES: usize = 512;
/// Of a name, and of what a link leads to: no system opens more.
pub(super) const PATH_MAX_BYTES: usize = 4096;
/// Of what goes before a header. Other programs put more into it than names.
const EXTENSION_MAX_BYTES: u64 = 1 << 20;
/// How many of these may go before one header.
const EXTENSIONS_MAX: usize = 16;
/// What may follow the end of an archive: programs fill up their last block.
const PADDING_MAX_BYTES: u64 = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// How compressed files begin.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Symlink,
    HardLink,
    /// What is not put into a volume, in words.
    Other(&'static str),
}

/// A time, in seconds since 1970 and billionths of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Of a link.
    pub(super) target: Vec<u8>,
    /// Of what follows the header, in octets.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: Time,
}

/// Why octets are no archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error("the archive was cut off: it has no end")]
    CutOff,
    #[error(
        "the archive is compressed: give what is in it, such as by `gunzip -c FILE | wharf volume restore … -`"
    )]
    Compressed,
    #[error("this is no tar archive, or it is damaged: {0}")]
    Damaged(&'static str),
    #[error("the archive could not be read")]
    Read(#[source] io::Error),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::CutOff,
            _ => Self::Read(error),
        }
    }
}

pub(super) struct Reader<R> {
    from: R,
    /// Of the content of the entry that was read last.
    content_left: u64,
    /// What then follows, up to a whole block.
    padding: u64,
    has_begun: bool,
    has_attributes: bool,
}

/// What an archive says in other entries about the next one.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    is_sparse: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, content_left: 0, padding: 0, has_begun: false, has_attributes: false }
    }

    /// Whether extended attributes or access lists of files were passed over.
    pub(super) fn has_attributes(&self) -> bool {
        self.has_attributes
    }

    /// None: the archive has ended, and nothing but padding has followed.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip(self.content_left + self.padding)?;
        (self.content_left, self.padding) = (0, 0);
        let mut extension = Extension::default();
        for _ in 0..=EXTENSIONS_MAX {
            let mut block = [0; BLOCK_BYTES];
            self.from.read_exact(&mut block)?;
            if !self.has_begun && COMPRESSED.iter().any(|magic| block.starts_with(magic)) {
                return Err(TarError::Compressed);
            }
            if block.iter().all(|octet| *octet == 0) {
                self.read_padding()?;
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            if header.cksum().ok() != Some(checksum(&block)) {
                return Err(TarError::Damaged("the checksum of a header is wrong"));
            }
            self.has_begun = true;
            let size = header.entry_size().map_err(|_| TarError::Damaged("a header has no size"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let octets = self.extension(size)?;
                    extension.read_pax(&octets, &mut self.has_attributes)?;
                }
                EntryType::XGlobalHeader => {
                    let octets = self.extension(size)?;
                    let mut global = Extension::default();
                    global.read_pax(&octets, &mut self.has_attributes)?;
                    if global.says_something() {
                        return Err(TarError::Damaged("it gives all files one name, size, owner or time"));
                    }
                }
                EntryType::GNULongName => extension.path = Some(name_in(self.extension(size)?)?),
                EntryType::GNULongLink => extension.target = Some(name_in(self.extension(size)?)?),
                _ => return self.entry(header, extension, size).map(Some),
            }
        }
        Err(TarError::Damaged("too much goes before a header"))
    }

    /// Some of the content of the entry that was read last; 0: that is all.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.from.read(&mut buffer[..most])? {
            0 => Err(TarError::CutOff),
            read => {
                self.content_left -= read as u64;
                Ok(read)
            }
        }
    }

    fn entry(&mut self, header: &Header, extension: Extension, size: u64) -> Result<Entry, TarError> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = extension.target.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let kind = match header.entry_type() {
            _ if extension.is_sparse => Kind::Other("a file with holes, in a form that is not read"),
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::GNUSparse => Kind::Other("a file with holes, in a form that is not read"),
            EntryType::Char | EntryType::Block => Kind::Other("a device"),
            EntryType::Fifo => Kind::Other("a pipe"),
            _ => Kind::Other("of a kind that is not known"),
        };
        let size = match kind {
            Kind::File | Kind::Other(_) => extension.size.unwrap_or(size),
            // Some programs write here how large a folder is.
            Kind::Folder | Kind::Symlink => 0,
            Kind::HardLink if extension.size.unwrap_or(size) > 0 => {
                return Err(TarError::Damaged("a hard link has a content of its own"));
            }
            Kind::HardLink => 0,
        };
        if size > u64::MAX / 2 {
            return Err(TarError::Damaged("a file has more octets than there are"));
        }
        self.content_left = size;
        self.padding = padding(size);
        let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
        Ok(Entry {
            path,
            kind,
            target: target.unwrap_or_default(),
            size,
            mode: header.mode().map_err(|_| TarError::Damaged("a header has no mode"))?,
            uid: extension.uid.or(header.uid().ok()).unwrap_or(0),
            gid: extension.gid.or(header.gid().ok()).unwrap_or(0),
            modified: extension.modified.unwrap_or(Time { seconds, nanos: 0 }),
        })
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_MAX_BYTES {
            return Err(TarError::Damaged("what goes before a header is too long"));
        }
        let mut octets = Vec::new();
        let read = (&mut self.from).take(size).read_to_end(&mut octets)?;
        if read as u64 != size {
            return Err(TarError::CutOff);
        }
        self.skip(padding(size))?;
        Ok(octets)
    }

    fn skip(&mut self, octets: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut (&mut self.from).take(octets), &mut io::sink())?;
        if skipped == octets { Ok(()) } else { Err(TarError::CutOff) }
    }

    fn read_padding(&mut self) -> Result<(), TarError> {
        let (mut buffer, mut total) = ([0; BLOCK_BYTES], 0);
        loop {
            let read = self.from.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            total += read as u64;
            if total > PADDING_MAX_BYTES || buffer[..read].iter().any(|octet| *octet != 0) {
                return Err(TarError::Damaged("something follows its end"));
            }
        }
    }
}

impl Extension {
    fn says_something(&self) -> bool {
        let Self { path, target, size, uid, gid, modified, is_sparse } = self;
        path.is_some()
            || target.is_some()
            || size.is_some()
            || uid.is_some()
            || gid.is_some()
            || modified.is_some()
            || *is_sparse
    }

    /// Takes in records of the form `LENGTH KEY=VALUE\n`, where the length is that of the whole record.
    fn read_pax(&mut self, mut octets: &[u8], has_attributes: &mut bool) -> Result<(), TarError> {
        const DAMAGED: TarError = TarError::Damaged("what pax adds to a header is not understood");
        while !octets.is_empty() {
            let space = octets.iter().position(|octet| *octet == b' ').ok_or(DAMAGED)?;
            let length: usize = number(&octets[..space]).ok_or(DAMAGED)?;
            let record = octets.get(space + 1..length).ok_or(DAMAGED)?;
            let record = record.strip_suffix(b"\n").ok_or(DAMAGED)?;
            octets = &octets[length..];
            let equals = record.iter().position(|octet| *octet == b'=').ok_or(DAMAGED)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(name_in(value.to_vec())?),
                b"linkpath" => self.target = Some(name_in(value.to_vec())?),
                b"size" => self.size = Some(number(value).ok_or(DAMAGED)?),
                b"uid" => self.uid = Some(number(value).ok_or(DAMAGED)?),
                b"gid" => self.gid = Some(number(value).ok_or(DAMAGED)?),
                b"mtime" => self.modified = Some(Time::read(value).ok_or(DAMAGED)?),
                _ if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ if [&b"SCHILY.xattr."[..], b"SCHILY.acl.", b"LIBARCHIVE.xattr."]
                    .iter()
                    .any(|of| key.starts_with(of)) =>
                {
                    *has_attributes = true;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Time {
    /// Of a decimal number, which may be negative.
    fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        if !part.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let nanos: u32 = format!("{part:0<9}")[..9].parse().ok()?;
        if nanos > 0 && whole.starts_with('-') {
            return Some(Self { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
        }
        Some(Self { seconds, nanos })
    }

    fn write(self) -> String {
        let Self { seconds, nanos } = self;
        match (seconds < 0 && nanos > 0, nanos) {
            (_, 0) => seconds.to_string(),
            (false, _) => format!("{seconds}.{nanos:09}"),
            // Between -1 and 0 the sign would get lost.
            (true, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
        }
    }
}

pub(super) struct Writer<W>(W);

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> Self {
        Self(to)
    }

    /// Writes a header, and as much of the content as it says. What the content has not is filled up with zeros; returns how much that was.
    pub(super) fn append(&mut self, entry: &Entry, content: impl Read) -> Result<u64, AppendError> {
        let mut added = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(match entry.kind {
            Kind::File | Kind::Other(_) => EntryType::Regular,
            Kind::Folder => EntryType::Directory,
            Kind::Symlink => EntryType::Symlink,
            Kind::HardLink => EntryType::Link,
        });
        let ustar = header.as_ustar_mut().expect("it was made as one");
        put_name(&mut ustar.name, &entry.path, b"path", &mut added);
        put_name(&mut ustar.linkname, &entry.target, b"linkpath", &mut added);
        let mut number = |key: &[u8], value: u64, most: u64| {
            if value > most {
                add(&mut added, key, value.to_string().as_bytes());
            }
            value.min(most)
        };
        header.set_uid(number(b"uid", entry.uid, 0o777_7777));
        header.set_gid(number(b"gid", entry.gid, 0o777_7777));
        header.set_size(number(b"size", entry.size, 0o777_7777_7777));
        header.set_mode(entry.mode & 0o7777);
        let seconds =
            u64::try_from(entry.modified.seconds).ok().filter(|seconds| *seconds <= 0o777_7777_7777);
        header.set_mtime(seconds.unwrap_or(0));
        if seconds.is_none() || entry.modified.nanos > 0 {
            add(&mut added, b"mtime", entry.modified.write().as_bytes());
        }
        header.set_cksum();
        if !added.is_empty() {
            let mut before = Header::new_ustar();
            before.set_entry_type(EntryType::XHeader);
            let ustar = before.as_ustar_mut().expect("it was made as one");
            put_name(&mut ustar.name, b"PaxHeaders/entry", b"path", &mut Vec::new());
            before.set_mode(0o644);
            before.set_size(added.len() as u64);
            before.set_cksum();
            self.write(before.as_bytes())?;
            self.write(&added)?;
            self.pad(added.len() as u64)?;
        }
        self.write(header.as_bytes())?;
        self.content(entry.size, content)
    }

    fn content(&mut self, size: u64, mut content: impl Read) -> Result<u64, AppendError> {
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(CHUNK_BYTES)];
        let (mut left, mut missing) = (size, 0);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = match missing {
                0 => match content.read(&mut buffer[..most]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read.map_err(AppendError::Content)?,
                },
                _ => 0,
            };
            let written = if read == 0 {
                missing = missing.max(left);
                buffer[..most].fill(0);
                most
            } else {
                read
            };
            self.write(&buffer[..written])?;
            left -= written as u64;
        }
        self.pad(size)?;
        Ok(missing)
    }

    /// Without this it is no whole archive.
    pub(super) fn finish(mut self) -> Result<W, AppendError> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        self.0.flush().map_err(AppendError::Archive)?;
        Ok(self.0)
    }

    fn pad(&mut self, size: u64) -> Result<(), AppendError> {
        let padding = usize::try_from(padding(size)).expect("it is less than a block");
        self.write(&[0; BLOCK_BYTES][..padding])
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), AppendError> {
        self.0.write_all(octets).map_err(AppendError::Archive)
    }
}

/// What could not be read or written.
#[derive(Debug)]
pub(super) enum AppendError {
    Content(io::Error),
    Archive(io::Error),
}

/// Up to a whole block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

/// As if the field of the checksum were blank.
fn checksum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let octets = block.iter().enumerate();
    octets.map(|(at, octet)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*octet) }).sum()
}

/// A name without the zeros at its end.
fn name_in(mut octets: Vec<u8>) -> Result<Vec<u8>, TarError> {
    while octets.last() == Some(&0) {
        octets.pop();
    }
    if octets.len() > PATH_MAX_BYTES {
        return Err(TarError::Damaged("a name is too long"));
    }
    Ok(octets)
}

fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Puts a name into its field, or, where it has no room, what is there of it, and the whole into what pax adds.
fn put_name(field: &mut [u8; 100], name: &[u8], key: &[u8], added: &mut Vec<u8>) {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
    if name.len() > field.len() {
        add(added, key, name);
    }
}

/// Adds a record of pax, which begins with its own length.
fn add(added: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    added.extend_from_slice(length.to_string().as_bytes());
    added.push(b' ');
    added.extend_from_slice(key);
    added.push(b'=');
    added.extend_from_slice(value);
    added.push(b'\n');
}

/// Reads whatever comes to its end, as a fuzzer gives it.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_all(octets: &[u8]) {
    let mut reader = Reader::new(octets);
    let mut total = 0;
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(entry.path.len() <= PATH_MAX_BYTES && entry.target.len() <= PATH_MAX_BYTES);
        let mut buffer = [0; 1000];
        while let Ok(read @ 1..) = reader.read_content(&mut buffer) {
            total += read;
        }
    }
    assert!(total <= octets.len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            target: Vec::new(),
            size: 0,
            mode: 0o640,
            uid: 1000,
            gid: 7,
            modified: Time { seconds: 1_700_000_000, nanos: 5 },
        }
    }

    fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, content) in entries {
            writer.append(entry, *content).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(octets: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let (mut reader, mut all) = (Reader::new(octets), Vec::new());
        while let Some(entry) = reader.next_entry()? {
            let (mut content, mut buffer) = (Vec::new(), [0; 100]);
            while let read @ 1.. = reader.read_content(&mut buffer)? {
                content.extend_from_slice(&buffer[..read]);
            }
            all.push((entry, content));
        }
        Ok(all)
    }

    #[test]
    fn what_has_no_room_in_a_header_comes_back_all_the_same() {
        let long = "a/".repeat(300);
        let large = Entry { uid: 4_000_000_000, gid: 3_000_000, size: 3, ..entry(&long, Kind::Folder) };
        let large = Entry { kind: Kind::File, path: [long.as_bytes(), b"file"].concat(), ..large };
        let old = Entry { modified: Time { seconds: -1, nanos: 500_000_000 }, ..entry("old", Kind::File) };
        let link =
            Entry { target: [b"../".repeat(100), b"x".to_vec()].concat(), ..entry("l", Kind::Symlink) };
        let hard = Entry { target: b"old".to_vec(), ..entry("again", Kind::HardLink) };
        let odd = Entry { path: b"\xff\xfe\n=7".to_vec(), ..entry("", Kind::File) };
        let all: [(Entry, &[u8]); 6] = [
            (entry("./", Kind::Folder), b""),
            (large, b"abc"),
            (old, b""),
            (link, b""),
            (hard, b""),
            (odd, b""),
        ];
        let expected: Vec<_> = all.iter().map(|(entry, content)| (entry.clone(), content.to_vec())).collect();
        assert_eq!(read(&archive(&all)).unwrap(), expected);
    }

    #[test]
    fn a_file_beyond_eight_gigabytes_says_its_size() {
        // Nothing of the content is written.
        struct Head<'a>(&'a mut Vec<u8>);
        impl Write for Head<'_> {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                if self.0.len() >= 3 * BLOCK_BYTES {
                    return Err(io::ErrorKind::Other.into());
                }
                self.0.extend_from_slice(octets);
                Ok(octets.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (size, mut octets) = (9 << 30, Vec::new());
        let large = Entry { size, modified: Time::default(), ..entry("large", Kind::File) };
        assert!(Writer::new(Head(&mut octets)).append(&large, io::empty()).is_err());
        assert_eq!(Reader::new(&octets[..]).next_entry().unwrap().unwrap().size, size);
    }

    #[test]
    fn what_a_file_lost_meanwhile_is_zeros() {
        let mut writer = Writer::new(Vec::new());
        let file = Entry { size: 5, ..entry("f", Kind::File) };
        assert_eq!(writer.append(&file, &b"ab"[..]).unwrap(), 3);
        let octets = writer.finish().unwrap();
        assert_eq!(read(&octets).unwrap()[0].1, b"ab\0\0\0");
    }

    #[test]
    fn wherever_an_archive_is_cut_off_it_has_no_end() {
        let file = Entry { size: 3, ..entry("f", Kind::File) };
        let octets = archive(&[(file, b"abc"), (entry("d", Kind::Folder), b"")]);
        for length in 0..octets.len() - 2 * BLOCK_BYTES {
            assert!(matches!(read(&octets[..length]), Err(TarError::CutOff)), "{length}");
        }
        assert_eq!(read(&octets).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_archive_is_told_from_a_compressed_one() {
        let words = |octets: &[u8]| read(octets).unwrap_err().to_string();
        assert!(words(&[b"\x1f\x8b".to_vec(), vec![1; 600]].concat()).contains("gunzip"));
        assert!(words(&[b'x'; 600]).contains("no tar archive"));
        let mut damaged = archive(&[(entry("f", Kind::File), b"")]);
        damaged[3] ^= 1;
        assert!(words(&damaged).contains("checksum"));
        let more = [archive(&[(entry("f", Kind::File), b"")]), b"more".to_vec()].concat();
        assert!(words(&more).contains("follows its end"));
    }

    #[test]
    fn no_header_makes_the_reader_keep_much() {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(1 << 40);
        header.set_mode(0);
        header.set_cksum();
        assert!(matches!(read(header.as_bytes()), Err(TarError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn times_are_read_as_they_are_written(seconds in -10_000_000_000_i64..10_000_000_000, nanos in 0..1_000_000_000_u32) {
            let time = Time { seconds, nanos };
            prop_assert_eq!(Time::read(time.write().as_bytes()), Some(time));
        }

        #[test]
        fn nonsense_is_an_error_and_never_a_fault(octets in proptest::collection::vec(any::<u8>(), 0..2000)) {
            read_all(&octets);
        }
    }
}
