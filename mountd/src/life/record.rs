//! What stands in a life file, drawn in `docs/formats/life.md`.

use cairn_common::attr::Timestamp;
use cairn_common::ids::{ClusterId, SessionId};
use cairn_common::wire::checksum::crc32c;

const MAGIC: [u8; 8] = *b"CAIRNLIF";
/// Without the time of the opening: of a session whose server does not tell it.
const WITHOUT_TIME: u32 = 1;
const WITH_TIME: u32 = 2;
/// Bytes before the text, at most.
const HEAD: usize = 66;
const CHECKSUM: usize = 4;
/// Longest text: a source and a mount point (PATH_MAX) that are not out of the ordinary.
const ABOUT_MAX: usize = 8192;
/// No life file is longer.
pub const RECORD_MAX: usize = HEAD + ABOUT_MAX + CHECKSUM;

/// One run of one kernel: locks are proof only under the kernel that keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub u128);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeRecord {
    pub cluster: ClusterId,
    pub session: SessionId,
    /// When it was opened, if its server tells: see [`cairn_common::proto::meta::SessionKey`].
    pub opened: Option<Timestamp>,
    pub boot: BootId,
    /// What is mounted where, for people.
    pub about: String,
}

impl LifeRecord {
    /// The bytes; a text that is too long is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let about = &self.about.as_bytes()[..self.about.floor_char_boundary(ABOUT_MAX)];
        let length = u16::try_from(about.len()).expect("cut to fit");
        let mut out = Vec::with_capacity(HEAD + about.len() + CHECKSUM);
        out.extend(MAGIC);
        let version = if self.opened.is_some() { WITH_TIME } else { WITHOUT_TIME };
        out.extend(version.to_be_bytes());
        out.extend(self.cluster.0.to_be_bytes());
        out.extend(self.session.0.to_be_bytes());
        if let Some(opened) = self.opened {
            out.extend(opened.secs.to_be_bytes());
            out.extend(opened.nanos.to_be_bytes());
        }
        out.extend(self.boot.0.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(about);
        out.extend(crc32c(&out).to_be_bytes());
        out
    }

    /// Reads a file's bytes; the error says in words what is wrong.
    ///
    /// # Errors
    /// If they are not what [`LifeRecord::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<LifeRecord, String> {
        let mut rest = Reader(bytes);
        if rest.take().ok_or("is too short")? != MAGIC {
            return Err("is not a life file".into());
        }
        let version = u32::from_be_bytes(rest.take().ok_or("is too short")?);
        if ![WITHOUT_TIME, WITH_TIME].contains(&version) {
            return Err(format!(
                "has format version {version}, this program reads {WITHOUT_TIME} and {WITH_TIME}"
            ));
        }
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or("is too short")?;
        if crc32c(body) != u32::from_be_bytes(*checksum) {
            return Err("is damaged".into());
        }
        rest.fields(version).ok_or_else(|| "has a wrong length or time".into())
    }
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    /// What stands between version and checksum.
    fn fields(&mut self, version: u32) -> Option<LifeRecord> {
        let cluster = ClusterId(u128::from_be_bytes(self.take()?));
        let session = SessionId(u64::from_be_bytes(self.take()?));
        let opened = if version == WITH_TIME { Some(self.time()?) } else { None };
        let boot = BootId(u128::from_be_bytes(self.take()?));
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let about = self.0.get(..length).filter(|_| self.0.len() == length + CHECKSUM)?;
        Some(LifeRecord { cluster, session, opened, boot, about: String::from_utf8(about.to_vec()).ok()? })
    }

    fn time(&mut self) -> Option<Timestamp> {
        let (secs, nanos) = (i64::from_be_bytes(self.take()?), u32::from_be_bytes(self.take()?));
        Timestamp::try_from((secs, nanos)).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    fn record() -> LifeRecord {
        LifeRecord {
            cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            session: SessionId(0x1122),
            opened: Some(Timestamp { secs: -2, nanos: 0x0102_0304 }),
            boot: BootId(0xa0a1_a2a3_a4a5_a6a7_a8a9_aaab_acad_aeaf),
            about: "m:/ at /mnt".into(),
        }
    }

    /// A file of this version must stay readable: these bytes never change.
    #[test]
    fn golden_bytes() {
        let golden: Vec<u8> = [
            b"CAIRNLIF".as_slice(),
            &[0, 0, 0, 2],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            &[0, 0, 0, 0, 0, 0, 0x11, 0x22],
            &[255, 255, 255, 255, 255, 255, 255, 254, 1, 2, 3, 4],
            &[0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf],
            &[0, 11],
            b"m:/ at /mnt",
            &[0xad, 0xb6, 0x0a, 0x86],
        ]
        .concat();
        assert_eq!(record().encode(), golden);
        assert_eq!(LifeRecord::decode(&golden), Ok(record()));
    }

    /// As mounts of before wrote them, and those do whose server does not tell when it opened a session.
    #[test]
    fn golden_bytes_of_version_1() {
        let golden: Vec<u8> = [
            b"CAIRNLIF".as_slice(),
            &[0, 0, 0, 1],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            &[0, 0, 0, 0, 0, 0, 0x11, 0x22],
            &[0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf],
            &[0, 11],
            b"m:/ at /mnt",
            &[0xb7, 0x02, 0x61, 0xe6],
        ]
        .concat();
        let record = LifeRecord { opened: None, ..record() };
        assert_eq!(record.encode(), golden);
        assert_eq!(LifeRecord::decode(&golden), Ok(record));
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let whole = record().encode();
        for length in 0..whole.len() {
            assert!(LifeRecord::decode(&whole[..length]).is_err(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(LifeRecord::decode(&changed).is_err(), "byte {at}");
        }
        assert!(LifeRecord::decode(&[whole, vec![0]].concat()).is_err(), "longer");
        let mut later = record().encode();
        later[11] = 3;
        assert_eq!(
            LifeRecord::decode(&later).unwrap_err(),
            "has format version 3, this program reads 1 and 2"
        );
        assert_eq!(LifeRecord::decode(&[b'#'; 100]).unwrap_err(), "is not a life file");
    }

    #[test]
    fn a_time_that_there_is_not_is_refused() {
        let no_time = LifeRecord { opened: Some(Timestamp { secs: 0, nanos: u32::MAX }), ..record() };
        assert!(LifeRecord::decode(&no_time.encode()).is_err());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = LifeRecord { about: "ä".repeat(ABOUT_MAX), ..record() };
        let bytes = long.encode();
        assert!(bytes.len() <= RECORD_MAX);
        assert_eq!(LifeRecord::decode(&bytes).unwrap().about.len(), ABOUT_MAX);
        let odd = LifeRecord { about: format!("x{}", "ä".repeat(ABOUT_MAX)), ..record() };
        assert_eq!(LifeRecord::decode(&odd.encode()).unwrap().about.len(), ABOUT_MAX - 1);
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            (cluster, session, boot) in any::<(u128, u64, u128)>(),
            opened in proptest::option::of((any::<i64>(), 0..1_000_000_000_u32)),
            about in ".{0,40}",
        ) {
            let (cluster, session, boot) = (ClusterId(cluster), SessionId(session), BootId(boot));
            let opened = opened.map(|(secs, nanos)| Timestamp { secs, nanos });
            let record = LifeRecord { cluster, session, opened, boot, about };
            prop_assert_eq!(LifeRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let head = [&record().encode()[..12], &bytes].concat();
            let with_checksum = [&head[..], &crc32c(&head).to_be_bytes()].concat();
            let _ = (LifeRecord::decode(&bytes), LifeRecord::decode(&with_checksum));
        }
    }
}
