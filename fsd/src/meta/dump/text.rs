//! How values are spelled in a line.

use bytes::Bytes;
use cairn_common::attr::{SECOND, Timestamp};
use cairn_common::ids::{BlockRef, VolumeId};
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Bytes: a string if they are UTF-8, else `{"hex":"..."}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl Raw {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("hex", &Hex(self.0.to_vec()))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"hex\":\"...\"}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw(Bytes::copy_from_slice(text.as_bytes())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                match map.next_key::<String>()?.as_deref() {
                    Some("hex") => {}
                    _ => return Err(A::Error::custom("expected the key hex")),
                }
                let Hex(bytes) = map.next_value()?;
                match map.next_key::<String>()? {
                    None => Ok(Raw(bytes.into())),
                    Some(_) => Err(A::Error::custom("expected no key but hex")),
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Bytes as hexadecimal digits, two for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let text: String = digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let byte = |[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let bytes = bytes.filter(|_| rest.is_empty());
        bytes.map(Hex).ok_or_else(|| D::Error::custom("expected pairs of digits 0-9 and a-f"))
    }
}

/// A number that only names something, as hexadecimal digits of a fixed count: no program rounds it.
macro_rules! fixed_hex {
    ($name:ident, $inner:ty, $format:literal) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!($format, self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                let number = <$inner>::from_str_radix(&text, 16).ok();
                let exact = number.filter(|number| format!($format, number) == text);
                let wrong = || D::Error::custom(concat!("expected digits as of ", $format));
                exact.map($name).ok_or_else(wrong)
            }
        }
    };
}

fixed_hex!(Hex64, u64, "{:016x}");
fixed_hex!(Hex128, u128, "{:032x}");

/// Permission bits, as octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm(pub u16);

impl Perm {
    /// Whether four digits say it, with no bits but those that chmod(2) knows.
    pub fn is_perm(self) -> bool {
        self.0 <= 0o7777
    }
}

impl Serialize for Perm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Perm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Perm, D::Error> {
        let text = String::deserialize(deserializer)?;
        let perm = u16::from_str_radix(&text, 8).ok().map(Perm).filter(|perm| perm.is_perm());
        let exact = perm.filter(|Perm(perm)| format!("{perm:04o}") == text);
        exact.ok_or_else(|| D::Error::custom("expected four octal digits"))
    }
}

/// Seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Time(i64, u32);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let (secs, nanos) = <(i64, u32)>::deserialize(deserializer)?;
        if nanos < SECOND {
            Ok(Time(secs, nanos))
        } else {
            Err(D::Error::custom("expected less than 10^9 nanoseconds"))
        }
    }
}

impl From<Timestamp> for Time {
    fn from(Timestamp { secs, nanos }: Timestamp) -> Time {
        Time(secs, nanos)
    }
}

impl From<Time> for Timestamp {
    fn from(Time(secs, nanos): Time) -> Timestamp {
        Timestamp { secs, nanos }
    }
}

/// A block as `cairn fsck` names it: `volume/sequence:cookie`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(pub BlockRef);

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Block, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = || {
            let (volume, rest) = text.split_once('/')?;
            let (sequence, cookie) = rest.split_once(':')?;
            let volume = VolumeId(volume.parse().ok()?);
            let cookie = u32::from_str_radix(cookie, 16).ok()?;
            Some(BlockRef { volume, sequence: sequence.parse().ok()?, cookie })
        };
        let exact = parse().filter(|block| block.to_string() == text);
        exact.map(Block).ok_or_else(|| D::Error::custom("expected a block, as 1/2:0000abcd"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    fn json<T: Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn each_has_one_spelling() {
        assert_eq!(json(&Raw("n\u{e4}me\n\0".into())), "\"n\u{e4}me\\n\\u0000\"");
        assert_eq!(json(&Raw(Bytes::from_static(b"a\xff"))), r#"{"hex":"61ff"}"#);
        assert_eq!(json(&Hex64(0xab)), r#""00000000000000ab""#);
        assert_eq!(json(&Hex128(1)), r#""00000000000000000000000000000001""#);
        assert_eq!(json(&Perm(0o1755)), r#""1755""#);
        assert_eq!(json(&Perm(0)), r#""0000""#);
        assert_eq!(json(&Time(-1, 5)), "[-1,5]");
        let block = BlockRef { volume: VolumeId(1), sequence: 2, cookie: 0xabcd };
        assert_eq!(json(&Block(block)), r#""1/2:0000abcd""#);
    }

    #[test]
    fn other_spellings_are_refused() {
        let refused = |text: &str, error: Option<serde_json::Error>| assert!(error.is_some(), "{text}");
        for text in
            [r#"{"hex":"f"}"#, r#"{"hex":"FF"}"#, r#"{"hex":"ff","hex":"ff"}"#, "{}", "7", r#"{"text":"a"}"#]
        {
            refused(text, serde_json::from_str::<Raw>(text).err());
        }
        for text in [r#""ab""#, r#""00000000000000AB""#, r#""+0000000000000ab""#, "1"] {
            refused(text, serde_json::from_str::<Hex64>(text).err());
        }
        for text in [r#""755""#, r#""00755""#, r#""9999""#, r#""17777""#] {
            refused(text, serde_json::from_str::<Perm>(text).err());
        }
        for text in ["[1]", "[1,1000000000]", "[1,-1]", "[1,2,3]"] {
            refused(text, serde_json::from_str::<Time>(text).err());
        }
        for text in
            [r#""1/2""#, r#""1/2:abcd""#, r#""01/2:0000abcd""#, r#""1/2:0000abcdef""#, r#""1/-2:0000abcd""#]
        {
            refused(text, serde_json::from_str::<Block>(text).err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..40), text in ".{0,20}") {
            for raw in [Raw(bytes.into()), Raw(text.into())] {
                let line = json(&raw);
                prop_assert!(!line.contains('\n'));
                prop_assert_eq!(&serde_json::from_str::<Raw>(&line).unwrap(), &raw);
                // Whoever gives a string in hexadecimal digits means the same.
                let hex = json(&std::collections::BTreeMap::from([("hex", Hex(raw.0.to_vec()))]));
                prop_assert_eq!(serde_json::from_str::<Raw>(&hex).unwrap(), raw);
            }
        }

        #[test]
        fn numbers_come_back(id in any::<u64>(), wide in any::<u128>(), perm in 0..=0o7777_u16, time in any::<(i64, u32)>()) {
            prop_assert_eq!(serde_json::from_str::<Hex64>(&json(&Hex64(id))).unwrap(), Hex64(id));
            prop_assert_eq!(serde_json::from_str::<Hex128>(&json(&Hex128(wide))).unwrap(), Hex128(wide));
            prop_assert_eq!(serde_json::from_str::<Perm>(&json(&Perm(perm))).unwrap(), Perm(perm));
            let time = Time(time.0, time.1 % SECOND);
            prop_assert_eq!(serde_json::from_str::<Time>(&json(&time)).unwrap(), time);
        }
    }
}
