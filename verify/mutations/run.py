#!/usr/bin/env python3
"""Breaks each promise on purpose, one place at a time, and sees that the simulator notices; with --kafka, that the
chaos runner does, whose processes are struck on a real Kafka.

    python3 verify/mutations/run.py [--kafka] [NAME ...]

Works on a copy in target/mutations, with a target folder of its own. The tree itself is left alone. Exit code 0 when
every mutation is caught and the unmutated copy passes.
"""
import os
import subprocess
import sys
import time

from tree import BUILT, COPY, ROOT, STAGES, Broken, build, copy, replaced

# Enough for the rarest of the mutations below, at a rate that makes faults frequent.
SEEDS = ["--seeds", "600", "--oracle-every", "8", "--rate", "2", "--stop-at-first"]

# The unmutated tree needs an eighth of it on two cores, so that other work beside it does no harm.
LIMIT_S = 2400

# promise, name, file, what is there, what is put there instead
MUTATIONS = [
    ("log_is_truth", "a live row that was sent leaves a trace in the state", "aggregate/src/state.rs",
     "self.live_due.sent(changes.sent, changes.tick);",
     "if !changes.sent.is_empty() {\n            self.event_ids = EventIds::default();\n        }\n        self.live_due.sent(changes.sent, changes.tick);"),
    ("log_is_truth", "a score depends on what was read with it", "score/src/stage.rs",
     "let (mut ordinal, nothing) = (0, Memory::default());",
     "let (mut ordinal, nothing) = (fold.rows.num_rows() as i64, Memory::default());"),
    ("log_is_truth", "the window before is a pane longer", "aggregate/src/measure.rs",
     "from.back(num_panes)..from", "from.back(num_panes + 1)..from"),
    ("log_is_truth", "users of a group are counted with those before the window", "aggregate/src/account/group_use.rs",
     "of.intersects(panes.start, panes.end)", "of.intersects(Pane(i32::MIN), panes.end)"),
    ("state_is_a_fold", "the use of groups is not restored", "aggregate/src/account/snapshot.rs",
     "self.groups.take_pane(pane, groups);", "drop(groups);"),
    ("state_is_a_fold", "first uses of features are not restored", "aggregate/src/account/snapshot.rs",
     "cell.take_since_version_9(more, names);\n        self.cells.put", "cell.take_since_version_9(Default::default(), names);\n        drop(more);\n        self.cells.put"),
    ("log_is_truth", "an item of a plan that is done is overdue", "aggregate/src/account/plan.rs",
     "i64::from(is_due && !is_done)", "i64::from(is_due)"),
    ("log_is_truth", "the best answer alone is satisfied", "aggregate/src/account/answers.rs",
     "score >= scale_max - 1", "score >= scale_max"),
    ("scores_explain_themselves", "a factor reads the shortest window, not its own", "score/src/windows.rs",
     "self.layout.index_of(name, period)", "self.layout.index_of(name, &self.layout.windows()[0])"),
    ("state_is_a_fold", "of the models of a partition the newest alone is saved", "score/src/snapshot.rs",
     "models: state.models.texts(),", "models: state.models.texts().into_iter().rev().take(1).collect(),"),
    ("state_is_a_fold", "a pane that an event changed is not saved again", "aggregate/src/dirty.rs",
     "self.pane(settings.panes.pane(event.occurred_us));\n        match", "match"),
    ("state_is_a_fold", "an account that was scored is not saved again", "score/src/state.rs",
     "self.dirty.mark(&id);", ""),
    ("log_is_truth", "a stage is entered a row too late", "score/src/lifecycle.rs",
     ">= stage.lasting.as_micros()", "> stage.lasting.as_micros()"),
    ("state_is_a_fold", "where an account stands is not restored", "score/src/snapshot.rs",
     "(account.memory.standing, rest) = postcard::take_from_bytes(rest).map_err(damaged)?;",
     "rest = postcard::take_from_bytes::<Option<Box<crate::lifecycle::Standing>>>(rest).map_err(damaged)?.1;"),
    ("scores_explain_themselves", "a model scores before its time", "score/src/model_schedule.rs",
     "*from_us <= as_of_us)", "*from_us <= as_of_us.max(i64::MAX - 1))"),
    ("log_is_truth", "a live row is remembered", "score/src/health_row.rs",
     "Some(account) if !case.is_final || account.is_ahead_of(case) => account.memory.clone(),",
     "Some(account) if account.is_ahead_of(case) => account.memory.clone(),\n            _ if !case.is_final => row.remembered(past),"),
    ("log_is_truth", "rows of one account in one record do not see each other", "score/src/stage.rs",
     "*turn += 1;", "*turn += usize::from(!case.is_final);"),
    ("timing_does_not_matter", "time runs ahead of the bound", "ingest/src/stage.rs",
     "high_us.min(now_us) - source.bound.as_micros())", "high_us.min(now_us))"),
    ("timing_does_not_matter", "a statement stands before the rows it covers", "ingest/src/stage.rs",
     "headers: if i == last {", "headers: if i == 0 {"),
    ("timing_does_not_matter", "the last use is the last to arrive", "aggregate/src/account/pane_totals.rs",
     "self.last_use_us = self.last_use_us.max(Some(at_us));", "self.last_use_us = Some(at_us);"),
    ("timing_does_not_matter", "the first answer of a person counts, not the last", "aggregate/src/account/answers.rs",
     "natural(&self.event_id, &other.event_id)).is_lt()", "natural(&self.event_id, &other.event_id)).is_gt()"),
    ("timing_does_not_matter", "what is said of a contract acts by when it was said", "aggregate/src/account/contracts.rs",
     "let by_time = self.effective_us.cmp(&other.effective_us)", "let by_time = self.said_us.cmp(&other.said_us)"),
    ("log_is_truth", "what is told late holds as if it had been told in time", "aggregate/src/account/contracts.rs",
     "told = booked.iter().filter(|(from_us, _)| *from_us < until_us)", "told = booked.iter().filter(|(_, statement)| statement.effective_us < until_us)"),
    ("log_is_truth", "a contract counts before anybody has said so", "aggregate/src/account/contracts.rs",
     " && statement.counts_from <= self.closed", ""),
    ("silence_is_a_signal", "a term that nobody renews never ends", "aggregate/src/account/contracts.rs",
     "self.is_open().then_some(lapse)", "None.filter(|_: &Self| lapse.is_open())"),
    ("state_is_a_fold", "contracts are not restored", "aggregate/src/account/snapshot.rs",
     "outcomes, contracts, locked, deletions }.into();", "outcomes, contracts: BTreeMap::new(), locked, deletions }.into();\n        drop(contracts);"),
    ("state_is_a_fold", "facts at the starts of periods are not restored", "aggregate/src/account/snapshot.rs",
     "outcomes, contracts, locked, deletions }.into();", "outcomes, contracts, locked: Locked::NOTHING, deletions }.into();\n        drop(locked);"),
    ("log_is_truth", "a period is told by the facts of now", "aggregate/src/account/locked.rs",
     "let fact = self.histories.facts.get(name)?.as_of(floor_us, start_us)?;",
     "let fact = self.histories.facts.get(name)?.as_of(floor_us, i64::MAX)?;"),
    ("log_is_truth", "a deletion leaves the facts of periods", "aggregate/src/account/locked.rs",
     "self.starts.clear();", ""),
    ("log_is_truth", "who comes back is new", "aggregate/src/revenue/figures.rs",
     "(0, _) if has_paid_before => &mut net.reactivated,", "(0, _) if has_paid_before && closing < 0 => &mut net.reactivated,"),
    ("log_is_truth", "a period restates nothing", "aggregate/src/revenue.rs",
     "of.is_changed = of.figures.as_ref().is_some_and(|before| *before != now);", "of.is_changed = false;"),
    ("silence_is_a_signal", "a term that lapses was never due", "aggregate/src/revenue/figures.rs",
     "terms.extend(ended);", "drop(ended);"),
    ("log_is_truth", "what was reported long ago is restated all the same", "aggregate/src/revenue.rs",
     "let is_forgotten = reported_us < known_us.saturating_sub(self.restate_for_us);", "let is_forgotten = reported_us > known_us;"),
    ("log_is_truth", "a month earns by the price of its end", "aggregate/src/revenue/figures.rs",
     "let us = until_us.min(month.end_us).saturating_sub(from_us).max(0);", "let us = until_us.min(cut_us).saturating_sub(from_us).max(0);"),
    ("log_is_truth", "what a deletion erases is forgotten before a close tells of it", "aggregate/src/account.rs",
     "rev().find(|deletion| deletion.is_announced)", "next_back()"),
    ("log_is_truth", "a deletion leaves contracts", "aggregate/src/account/contracts.rs",
     "self.0.retain(|statement| statement.said_us > floor_us);", "self.0.retain(|_| floor_us < i64::MAX);"),
    ("scores_explain_themselves", "who has left is scored", "score/src/windows.rs",
     "!self.is_deleted && self.left().is_none()", "!self.is_deleted"),
    ("log_is_truth", "a contract that was told late is no news", "aggregate/src/account/customer.rs",
     "as_customer_us.max(Some(settings.panes.start_us(customer.known_from)))", "as_customer_us.filter(|_| settings.panes.start_us(customer.known_from) < self.end_us)"),
    ("silence_is_a_signal", "a silent customer is retired", "aggregate/src/account/customer.rs",
     "Status::Active | Status::Paused => Some(self.end_us),", "Status::Active | Status::Paused => None,"),
    ("every_record_has_a_fate", "an id of another kind is a duplicate", "aggregate/src/dedup.rs",
     "if kind != Kind::Usage {", "if kind == Kind::Ticket {"),
    ("timing_does_not_matter", "the end is proven where a transaction is open", "pipeline/src/runner/sources.rs",
     "if ends.next == met {", "if ends.next >= met {"),
    ("one_transaction_a_step", "an aborted step is merged", "pipeline/src/runner.rs",
     "self.session.metrics.not_committed(\"aborted\");", "self.session.metrics.not_committed(\"aborted\");\n                self.merge(step);"),
    ("one_transaction_a_step", "a step whose verdict is lost is repeated", "pipeline/src/runner.rs",
     "} else if step.positions == committed {\n            self.merge(step);",
     "} else if step.positions == committed {\n            self.session.wait = RETRY_WAIT;"),
    ("one_transaction_a_step", "a position is not committed with its rows", "aggregate/src/stage.rs",
     "if !records.is_empty() || !changes.sent.is_empty() {", "if !records.is_empty() {"),
    ("rows_name_their_origin", "rows are numbered from where the step began", "aggregate/src/stage.rs",
     "next_offset: position.next.0,\n                    ordinal: LIVE_ORDINAL",
     "next_offset: position.next.0 & !7,\n                    ordinal: LIVE_ORDINAL"),
    ("rows_name_their_origin", "a close says nothing of where it was", "aggregate/src/stage.rs",
     "let next = NextOffset(position.next.0 + 1);", "let next = NextOffset(position.next.0 + i64::from(position.slice));"),
    ("state_is_a_fold", "a snapshot is taken in the middle of a close", "pipeline/src/runner/saving.rs",
     "if slice > 0 || member.is_replaying()", "if member.is_replaying()"),
    ("state_is_a_fold", "replay folds nothing", "pipeline/src/runner/restore.rs",
     "self.stage.merge(&mut self.state, step.changes);\n                member.advance(position);", "member.advance(position);"),
    ("state_is_a_fold", "a damaged snapshot is taken for none and the log is not replayed", "pipeline/src/runner/restore.rs",
     "None => (Position::at(ends.first), None),",
     "None => (Position { slice: 0, ..target }, None),"),
    ("every_record_has_a_fate", "duplicates count", "aggregate/src/fold.rs",
     "let is_duplicate = last_pane.is_some_and(|pane| !is_forgotten(pane));", "let is_duplicate = last_pane.is_some_and(|pane| !is_forgotten(pane) && pane.0 == i32::MIN);"),
    ("every_record_has_a_fate", "an id is forgotten a pane early", "aggregate/src/settings.rs",
     "self.panes.end_us(pane) + self.lateness_us <= watermark_us",
     "self.panes.end_us(pane) + self.lateness_us <= watermark_us + self.panes.width_us"),
    ("every_record_has_a_fate", "a reject of ingest is counted only", "ingest/src/stage/reading.rs",
     "into.step.messages.push(self.reject(record, &reason, batch));", "let _reject = self.reject(record, &reason, batch);"),
    ("timing_does_not_matter", "alerts go out before all partitions have ended the pane", "sink/src/hold.rs",
     "Some(_) => self.ended.values().min().copied(),", "Some(_) => self.ended.values().max().copied(),"),
    ("state_is_a_fold", "alerts that are held are not restored", "sink/src/hold.rs",
     "false => holding.held.entry(alert.alert_id.clone()).or_default().push(alert),", "false => drop(alert),"),
    ("log_is_truth", "an episode that began and ended while held goes out", "sink/src/hold.rs",
     "true => outcome.num_dropped += episode.len() as u64,", "true => alerts.extend(episode),"),
    ("log_is_truth", "the least number of events is the usual one", "aggregate/src/feeds.rs",
     "last.get(known / 2)", "last.first()"),
    ("timing_does_not_matter", "a partition tells its drops to itself only", "score/src/drops.rs",
     "(0..settings.partitions).map(move", "(partition..=partition).map(move"),
    ("state_is_a_fold", "drops of an open pane are not saved", "score/src/snapshot.rs",
     "drops: state.drops.clone()", "drops: OpenDrops::new()"),
    ("silence_is_a_signal", "a source read to its end holds time back", "ingest/src/stage.rs",
     "(own_us.max(Some(proof.at_us - source.delay().as_micros())), SourceState::Proven)",
     "(own_us.filter(|_| proof.at_us > 0), SourceState::Proven)"),
    ("silence_is_a_signal", "a quiet account has no final row", "aggregate/src/account.rs",
     "silence_us < settings.retire_after_us + settings.panes.width_us;",
     "silence_us < settings.panes.width_us;"),
    ("work_is_bounded", "a close goes out at once", "aggregate/src/close.rs",
     "                slices_left -= 1;\n", "                slices_left -= u32::from(closing.slice == 0);\n"),
    ("files_appear_whole", "a claim is cut anew", "sink/src/tables.rs",
     "if claim.end != end {", "if claim.end != end && claim.end.0 % 2 == 0 {"),
    ("files_appear_whole", "a claim that another made is taken for one's own", "sink/src/claim.rs",
     "if store.create(&name, content)? { Ok(claim) } else { read(store, &name) }",
     "store.create(&name, content)?;\n    Ok(claim)"),
    ("files_appear_whole", "an unfinished claim counts as written", "sink/src/claim.rs",
     "return Ok(Some((claim, false)));", "return Ok(Some((claim, true)));"),
    ("scores_explain_themselves", "contributions are rounded one by one", "score/src/rate.rs",
     "let sum = running.with(normalised, *effective_weight);",
     "running = Sum100::default();\n            let sum = before + running.with(normalised, *effective_weight);"),
    ("scores_explain_themselves", "weights are those of the first account, whatever is known of the others", "score/src/rate.rs",
     "|(known, _)| *known == set && !self.goes_by_points)", "|_| !self.goes_by_points)"),
    ("scores_explain_themselves", "a band is left as soon as its entry is not reached", "score/src/model/band.rs",
     "dwells || (Some(*index) > reached && band.is_kept(score))", "dwells || band.is_kept(score) && reached.is_none()"),
    ("scores_explain_themselves", "the first known value is carried, not the last", "score/src/health_row.rs",
     "now.or(past.known.get(name).copied())", "past.known.get(name).copied().or(now)"),
    ("silence_is_a_signal", "an episode is raised again while it cools down", "score/src/episode.rs",
     "if is_cooling || now_us", "if is_cooling && false || now_us"),
    ("silence_is_a_signal", "an outcome closes nothing", "score/src/episode.rs",
     'None if matches!(signs.outcome, Some("done" | "dismissed")) => {', 'None if matches!(signs.outcome, Some("done")) => {'),
]

# A process is killed when it comes to a place, with what it then has in hand: by chance nothing that could be lost.
STRUCK_DECKS = 4

# The same, judged by decks of these faults on a real Kafka.
STRUCK = [
    ("one_transaction_a_step", "positions are committed before the rows they cover", "pipeline/src/log/kafka/transaction.rs",
     """        patiently(log, deadline, "sending positions", |producer| {
            producer.send_offsets_to_transaction(&offsets, &membership, SLICE)
        })?;
""",
     """        std::hint::black_box(&membership);
        log.consumer
            .commit(&offsets, rdkafka::consumer::CommitMode::Sync)
            .map_err(|error| Trouble::of("sending positions", &error))?;
""", "before_commit"),
    ("one_transaction_a_step", "rows are committed without the fence of the membership, positions after them", "pipeline/src/log/kafka/transaction.rs",
     """    if offsets.count() > 0 {
        patiently(log, deadline, "sending positions", |producer| {
            producer.send_offsets_to_transaction(&offsets, &membership, SLICE)
        })?;
    }
    drain(log, deadline)?;
    crash_points::here(CrashPoint::BeforeCommit);
    patiently(log, deadline, "commit", |producer| producer.commit_transaction(SLICE))
""",
     """    drain(log, deadline)?;
    std::hint::black_box(&membership);
    patiently(log, deadline, "commit", |producer| producer.commit_transaction(SLICE))?;
    crash_points::here(CrashPoint::BeforeCommit);
    if offsets.count() > 0 {
        log.consumer
            .commit(&offsets, rdkafka::consumer::CommitMode::Sync)
            .map_err(|error| Trouble::of("sending positions", &error))?;
    }
    Ok(())
""", "before_commit"),
    ("state_is_a_fold", "replay folds nothing on Kafka", "pipeline/src/runner/restore.rs",
     "self.stage.merge(&mut self.state, step.changes);\n                member.advance(position);", "member.advance(position);",
     "crash aggregate"),
    ("files_appear_whole", "an unfinished claim counts as written on Kafka", "sink/src/claim.rs",
     "return Ok(Some((claim, false)));", "return Ok(Some((claim, true)));", "sink in_upload"),
]


def strike(faults, decks=1):
    """Builds the copy and strikes it on a real Kafka. Returns whether all is well, and the words of what is not."""
    build(*STAGES, "chaos")
    command = [str(BUILT / "debug" / "chaos"), "run", "--decks", str(decks), "--seed", "5", "--only", faults, "--results", str(BUILT / "struck.ndjson")]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=os.environ | {"RUST_BACKTRACE": "0"})
    return run.returncode == 0, " ".join(run.stderr.split())[-160:]


def simulate():
    """Builds the copy and simulates. Returns whether all is well, and the first words of what is not."""
    build("simulate")
    try:
        run = subprocess.run([str(BUILT / "debug" / "simulate"), *SEEDS], cwd=COPY, text=True, capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Broken(f"it does not end within {LIMIT_S} s") from None
    words = next((line for line in run.stderr.splitlines() if line.startswith("seed ")), run.stderr[-300:])
    return run.returncode == 0, words


def main():
    wanted = [word for word in sys.argv[1:] if word != "--kafka"]
    is_struck = "--kafka" in sys.argv[1:]
    copy()
    missed = []
    if not wanted:
        well = [strike(faults) for faults in sorted({entry[-1] for entry in STRUCK})] if is_struck else [simulate()]
        if not all(is_well for is_well, _ in well):
            sys.exit(f"the tree fails without any mutation: {well}")
        print("unmutated: passes", flush=True)
    for promise, name, file, before, after, *faults in STRUCK if is_struck else MUTATIONS:
        if wanted and not any(word in f"{promise} {name}" for word in wanted):
            continue
        started = time.monotonic()
        try:
            is_well, words = mutated(file, before, after, *faults)
            verdict = "MISSED" if is_well else f"caught: {words[:160]}"
        except Broken as error:
            is_well, verdict = True, f"BROKEN: {error}"
        print(f"{promise} {name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
        if is_well:
            missed.append(name)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


def mutated(file, before, after, faults=None):
    """Simulates, or strikes by these faults, with one text replaced by another."""
    original = replaced(file, before, after)
    try:
        return strike(faults, STRUCK_DECKS) if faults else simulate()
    finally:
        (COPY / file).write_text(original)


main()
