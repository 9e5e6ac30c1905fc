"""Deliberate faults of the order in which things become durable: a crash test that finds none of them proves nothing."""

from pathlib import Path

from vmctl import durable, leaving, placing, recovery
from vmctl.replica import Replica
from vmctl.scan import Scanner
from vmctl.spool import Spool


def gone_before_it_is_taken():
    """A mail leaves the spool when it is read, not when what it brought is durable."""
    read = Spool.read

    def and_gone(spool, path):
        raw = read(spool, path)
        durable.remove(path)
        return raw

    Spool.read = and_gone


def written_in_place():
    """A file is written under its own name, so that half of it may stand there."""

    def write(path, data, *, mode=0o600):
        durable.discard(path)
        durable.write_at(path, 0, data, mode=mode)

    def exchange(staged, path, aside):
        place = Path(path)
        there = place.exists()
        if there:
            durable.copy(place, Path(aside))
        write(place, Path(staged).read_bytes(), mode=place.stat().st_mode & 0o777 if there else 0o600)
        return there

    durable.write, durable.exchange = write, exchange


def replaced_without_a_look():
    """What a person saved at the last moment is overwritten."""
    exchange = durable.exchange

    def and_forgotten(staged, path, aside):
        exchange(staged, path, aside)
        durable.discard(aside)
        return False

    durable.exchange = and_forgotten


def tombstones_read_later():
    """A new life of a store is durable before it knows what was deleted in the former one."""
    start_over, recall = Replica._start_over, Scanner.recall

    def committed_first(replica, *why):
        start_over(replica, *why)
        replica.index._db.execute("COMMIT")
        replica.index._db.execute("BEGIN IMMEDIATE")
        recall(replica.scanner)

    Replica._start_over = committed_first
    Scanner.recall = lambda _self: None


def nothing_taken_back():
    """What a killed `message leave` had written stays."""
    recovery.take_back = leaving.take_back = lambda *_: None


def marks_that_nobody_reads():
    """A message whose files were written before a crash, and are gone after it, is written again."""
    placing.Placing.left = lambda _self: ([], [])


def renamed_first():
    """A full file of a journal gets its second name instead of its first, not besides it."""
    durable.link = durable.move


# Each fault, and the story that shows it.
FAULTS = {
    gone_before_it_is_taken: "mails_are_received",
    written_in_place: "an_application_drops_messages_in",
    replaced_without_a_look: "a_person_saves_at_the_last_moment",
    tombstones_read_later: "an_index_is_lost",
    nothing_taken_back: "a_message_is_left",
    renamed_first: "a_journal_goes_on_in_a_new_file",
    marks_that_nobody_reads: "messages_are_written_and_deleted_before_the_next_start",
}
