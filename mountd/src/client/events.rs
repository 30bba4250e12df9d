//! What the server asks of the mount by an event: done and acknowledged, or refused.

use super::EventSink;
use super::answers::{AfterEvent, event_done};
use super::calls::{CALL_DEADLINE, Calls};
use cairn_common::error::{FsError, FsResult};
use cairn_common::proto::meta::{Event, EventBody, MetaStub};
use cairn_common::rpc::context_within;
use std::sync::Arc;

/// Does what an event asks for, and answers it. Over new connections, too, as long as it takes: the event has arrived,
/// so the server does not send it again, and it evicts who never answers.
pub async fn carry_out<S: EventSink>(calls: &Calls, event: &Event, sink: &Arc<S>) {
    let Ok(answer) = until_it_is_clear(calls, &event.body, sink).await else { return };
    loop {
        let (answer, event) = (answer, event.id);
        let call = |client: MetaStub, id| async move {
            let context = context_within(CALL_DEADLINE);
            match answer {
                Answer::Done => client.acknowledge(context, id, event).await,
                Answer::Refused(error) => client.refuse(context, id, event, error).await,
            }
        };
        if calls.call(call).await != Err(FsError::TimedOut) {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum Answer {
    Done,
    Refused(FsError),
}

/// An error: the mount is going away.
async fn until_it_is_clear<S: EventSink>(
    calls: &Calls,
    asked: &EventBody,
    sink: &Arc<S>,
) -> FsResult<Answer> {
    loop {
        let done = attempt(asked, sink).await;
        let version = calls.attached().await?.live.peer().version;
        match event_done(asked, done, version) {
            AfterEvent::Acknowledge => return Ok(Answer::Done),
            AfterEvent::Refuse(error) => {
                tracing::warn!(?asked, %error, "what another mount asks for can't be given back now: it is kept here");
                return Ok(Answer::Refused(error));
            }
            AfterEvent::Again => {}
            AfterEvent::GiveUp(ino, error) => {
                sink.give_up(ino, error);
                return Ok(Answer::Done);
            }
        }
    }
}

async fn attempt<S: EventSink>(asked: &EventBody, sink: &Arc<S>) -> FsResult<()> {
    match asked {
        EventBody::Flush { inos } => return sink.flush(inos.clone()).await,
        EventBody::Uncache { ino, generation } => return sink.uncache(*ino, *generation).await,
        EventBody::Invalidate { ino } => sink.invalidate(*ino).await,
        EventBody::Shared { generation } => {
            sink.shared(*generation).await;
            Arc::clone(sink).hand_over_locks().await;
        }
        EventBody::LockReleased { .. } | EventBody::Sole { .. } => {}
    }
    Ok(())
}
