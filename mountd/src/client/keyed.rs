//! Calls that name a session: by its number and when it was opened, and by its number alone where that is not known, or the
//! server does not know such calls.

use super::answers::Taken;
use super::calls::CALL_DEADLINE;
use cairn_common::attr::Timestamp;
use cairn_common::error::FsResult;
use cairn_common::ids::SessionId;
use cairn_common::proto::meta::{AttachRequest, MetaStub, SessionKey};
use cairn_common::rpc::{Live, context_within};
use tarpc::client::RpcError;

/// Version of the protocol in which a session is its number and when it was opened.
const SINCE: u16 = 5;

/// Opens a session, or takes up the one of the request, which was `opened` then. The server may have to wait for another mount
/// first.
pub async fn take_up(
    live: &Live<MetaStub>,
    request: AttachRequest,
    opened: Option<Timestamp>,
) -> Result<FsResult<Taken>, RpcError> {
    let context = context_within(CALL_DEADLINE);
    if live.peer().version < SINCE {
        return Ok(live.attach(context, request).await?.map(Taken::from));
    }
    Ok(live.take_up(context, request, opened).await?.map(Taken::from))
}

/// Ends a session.
pub async fn end(
    live: &Live<MetaStub>,
    session: SessionId,
    opened: Option<Timestamp>,
) -> Result<FsResult<()>, RpcError> {
    let context = context_within(CALL_DEADLINE);
    match opened.filter(|_| live.peer().version >= SINCE) {
        Some(opened) => live.end(context, SessionKey { session, opened }).await,
        None => live.detach(context, session).await,
    }
}
