//! RPC messages: requests and replies of both services, with payloads beside them.
#![no_main]

use bytes::Bytes;
use cairn_common::limits::FRAME_HEADER_MAX;
use cairn_common::proto::data::{DataServiceRequest, DataServiceResponse};
use cairn_common::proto::meta::{MetaServiceRequest, MetaServiceResponse};
use cairn_common::rpc::message::WireMessage;
use cairn_common::wire::codec::{decode, encode};
use cairn_common::wire::payload::{decode_with, encode_with};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{ClientMessage, Response};

/// The codec believes no length above 64 MiB, but one below for a moment, without touching the memory.
const HELD_MAX: usize = 66 * MIB;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (which, payload) = (input.u8(), Bytes::copy_from_slice(input.chunk()));
    let header = input.0;
    match which % 4 {
        0 => message::<MetaServiceRequest, ClientMessage<MetaServiceRequest>>(header, &payload),
        1 => message::<MetaServiceResponse, Response<MetaServiceResponse>>(header, &payload),
        2 => message::<DataServiceRequest, ClientMessage<DataServiceRequest>>(header, &payload),
        _ => message::<DataServiceResponse, Response<DataServiceResponse>>(header, &payload),
    }
});

fn message<T: Serialize + DeserializeOwned, M: WireMessage>(header: &[u8], payload: &Bytes) {
    // In its envelope, which says what time is left: it is another one when it is encoded again.
    let _ = within(HELD_MAX, || decode_with(payload.clone(), || M::decode(header)));
    let (decoded, left) =
        within(HELD_MAX, || decode_with(payload.clone(), || decode::<T>(header, FRAME_HEADER_MAX)));
    let Ok(value) = decoded else { return };
    // Numbers may be spelled longer than needed, so the first encoding may differ, but no later one.
    let (bytes, segments) = encode_with(|| encode(&value).expect("not longer than it came"));
    assert!(bytes.len() <= header.len());
    let sent = segments.concat();
    assert_eq!(sent, payload[..payload.len() - left.len()], "each byte of the payload once, in order");
    let (again, left) = decode_with(sent.into(), || decode::<T>(&bytes, FRAME_HEADER_MAX));
    assert!(left.is_empty());
    let (same, _) =
        encode_with(|| encode(&again.expect("what was encoded is decoded")).expect("it was before"));
    assert_eq!(same, bytes);
}
