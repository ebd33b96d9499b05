"""nibble chat: driven through a pipe, and through a terminal as a person does."""
import os
import pty
import re
import select
import signal
import termios
import time

import cli

FLAGS = ("--precise", "--greedy", "--ctx", "512")


class PipeTest(cli.Case):
    """Standard input is no terminal: lines are read, answers are printed, and nothing else."""

    def talk(self, *lines, flags=FLAGS):
        """Returns the result of a conversation of these lines."""
        text = "".join(line + "\n" for line in lines).encode("utf-8")
        return cli.nibble("chat", cli.real(), *flags, input=text)

    def used(self, text):
        """Returns the numbers of tokens in use that /stats told."""
        return [int(number) for number in re.findall(r"(\d+) of \d+ tokens of context", text)]

    def test_answer(self):
        """The answer, and neither prompt nor echo."""
        result = self.talk("What is the capital of France?")
        self.assertEqual((result.status, result.message), (cli.DONE, ""))
        self.assertEqual(result.text, "The capital of France is Paris.\n")

    def test_same_as_run(self):
        """The first turn is what run --chat says."""
        question = "Name three colours."
        answer = self.good("run", cli.real(), *FLAGS, "-n", "12", "--chat", "-p", question).text
        self.assertEqual(self.talk(question, flags=(*FLAGS, "-n", "12")).text, answer)

    def test_conversation_continues(self):
        """A second turn reads only what is new."""
        result = self.talk("My name is Ada.", "/stats", "What is my name?", "/stats",
                           flags=(*FLAGS, "-n", "12"))
        reads = [int(number) for number in re.findall(r"read (\d+) tokens", result.text)]
        used = self.used(result.text)
        self.assertEqual(len(used), 2)
        self.assertGreater(used[1], used[0])
        self.assertLess(reads[1], 25)
        # The first answer was cut off or ended by its last token, of which the cache lacks nothing
        # or that one token.
        self.assertLessEqual(used[0] + reads[1], used[1] + 1)

    def test_cut_off_answer_is_ended(self):
        """After an answer that -n cut off, the template goes on with a whole conversation."""
        result = self.talk("Count to twenty.", "/stats", "Hi", "/stats", flags=(*FLAGS, "-n", "3"))
        used = self.used(result.text)
        turn = self.good("tokenize", cli.real(), "-p",
                         "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        self.assertEqual(used[1], used[0] + len(turn.text.split()) + 3)

    def test_reset(self):
        """After /reset the conversation is as at its beginning."""
        lines = ("Hi", "/stats")
        result = self.talk(*lines, "/reset", *lines, flags=(*FLAGS, "-n", "8"))
        used = self.used(result.text)
        self.assertEqual(used[0], used[1])

    def test_system(self):
        """/system does what --system does, and begins anew."""
        flags = (*FLAGS, "-n", "8")
        typed = self.talk("Hi", "/system Talk like a pirate.", "Hi", "/stats", flags=flags).text
        given = self.talk("Hi", "/stats", flags=(*flags, "--system", "Talk like a pirate.")).text
        self.assertEqual(self.used(typed), self.used(given))

    def test_several_lines(self):
        """A backslash continues the line."""
        flags = (*FLAGS, "-n", "4")
        joined = self.talk("one\\", "two", "/stats", flags=flags).text
        self.assertEqual(len(self.used(joined)), 1)
        single = self.talk("onetwo", "/stats", flags=flags).text
        self.assertGreater(self.used(joined)[0], self.used(single)[0])

    def test_commands(self):
        """Help, unknown commands, empty lines, the end."""
        result = self.talk("/help", "", "/frobnicate now", "/quit", "Hi")
        self.assertEqual(result.status, cli.DONE)
        self.assertIn("/system TEXT", result.text)
        self.assertIn("unknown command /frobnicate;", result.message)
        self.assertNotIn("assistant", result.text)

    def test_context_full(self):
        """An answer goes on in a full context without its oldest tokens, as long as a context."""
        flags = ("--precise", "--greedy", "--ctx", "48", "--ignore-eos", "--system", "x")
        result = self.talk("Hi", "/stats", "/reset", "Hi", flags=flags)
        self.assertEqual(result.status, cli.DONE)
        self.assertEqual(result.message.count("the context was full"), 2)
        self.assertEqual(result.message.count("was ended after 48 tokens"), 2)
        self.assertIn("wrote 48 at", result.text)
        self.assertLess(self.used(result.text)[0], 48)

    def test_conversation_outgrows_context(self):
        """Old turns make room for new ones, and the system message stays."""
        flags = ("--greedy", "--ctx", "96", "-n", "10", "--system", "You are brief.")
        questions = ["Tell me about the number %d, and why it is of interest." % n
                     for n in range(8)]
        result = self.talk(*(line for text in questions for line in (text, "/stats")),
                           flags=flags)
        self.assertEqual(result.status, cli.DONE)
        self.assertGreater(result.message.count("the context is full"), 1)
        self.assertEqual(len(self.used(result.text)), 8)
        # Alone, the last question with the same system message has another context.
        dropped = sum(int(n) for n in re.findall(r"oldest (\d+) tokens", result.message))
        self.assertGreater(dropped, 100)

    def test_message_longer_than_context(self):
        """A message that can never fit is refused, and nothing is dropped for it."""
        result = self.talk("Hi", "word " * 100, "/stats", flags=("--ctx", "64", "-n", "3"))
        self.assertEqual(result.status, cli.DONE)
        self.assertIn("does not fit: the context holds 64", result.message)
        self.assertNotIn("dropped", result.message)

    def test_sessions_are_kept(self):
        """A conversation goes on from the file that it was saved in."""
        path = str(self.folder / "s")
        flags = (*FLAGS, "-n", "12")
        whole = self.talk("My name is Ada.", "What is my name?", flags=flags).text
        first = self.talk("My name is Ada.", flags=(*flags, "--save-session", path)).text
        second = self.talk("What is my name?", "/stats", flags=(*flags, "--session", path)).text
        self.assertEqual(first + second.splitlines()[0] + "\n", whole)
        # Only the question and at most 31 tokens of the page that was not full are read.
        self.assertLess(int(re.search(r"read (\d+) tokens", second)[1]), 25 + 31)

    def test_system_message_of_a_session(self):
        """A session from a file keeps its system message when old turns make room."""
        paths = [str(self.folder / name) for name in ("first", "second")]
        flags = ("--greedy", "--ctx", "96", "-n", "10")
        system = "You are brief, and a zebra."
        self.talk("Hi", flags=(*flags, "--system", system, "--save-session", paths[0]))
        questions = ["Tell me about the number %d, and why it is of interest." % n
                     for n in range(4)]
        result = self.talk(*questions, flags=(*flags, "--session", paths[0], "--save-session",
                                              paths[1]))
        self.assertEqual(result.status, cli.DONE)
        self.assertRegex(result.message, "the context (is|was) full")
        turn = self.good("tokenize", cli.real(), "--json", "-p",
                         "<|im_start|>system\n%s<|im_end|>" % system).json["ids"]
        ids = self.good("run", cli.real(), "--ctx", "96", "--session", paths[1], "-n", "1",
                        "--json").json["prompt_ids"]
        self.assertEqual(ids[:len(turn)], turn)

    def test_odd_lines(self):
        """Bytes that are no text, NUL, and a very long line."""
        text = b"\xff\xfe\n" + b"a\0b\n" + b"word " * 20000 + b"\n/stats\n"
        result = cli.nibble("chat", cli.real(), *FLAGS, "-n", "2", input=text)
        self.assertEqual(result.status, cli.DONE)
        self.assertIn("does not fit", result.message)
        self.assertEqual(len(self.used(result.text)), 1)


class TerminalTest(cli.Case):
    """A person at a terminal."""

    def setUp(self):
        super().setUp()
        model = cli.real()
        environment = dict(cli.environment(), HOME=str(self.folder))
        try:
            self.pid, self.terminal = pty.fork()
        except OSError as error:
            self.skipTest(f"no pseudo-terminal: {error}")
        if self.pid == 0:
            try:
                os.execve(cli.PROGRAM, [cli.PROGRAM, "chat", model, *FLAGS, "--ignore-eos"],
                          environment)
            finally:
                os._exit(127) # pylint: disable=protected-access
        self.ended = False
        self.addCleanup(self.end)
        self.screen = b""
        self.read = 0

    def end(self):
        """Leaves no process behind."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.terminal)

    def expect(self, pattern):
        """Reads on until a pattern appears behind what was matched last."""
        limit = time.monotonic() + 60
        while True:
            match = re.search(pattern, self.screen[self.read:])
            if match:
                self.read += match.end()
                return match
            ready, _, _ = select.select([self.terminal], [], [], limit - time.monotonic())
            try:
                data = os.read(self.terminal, 65536) if ready else b""
            except OSError:
                data = b""
            if not data:
                self.fail("%r did not appear; the screen says %r" % (pattern, self.screen[-2000:]))
            self.screen += data

    def expect_prompt(self):
        """Waits for the prompt, and until the terminal no longer edits the line by itself, which
        libedit sees to just after it showed the prompt."""
        self.expect(rb"> ")
        limit = time.monotonic() + 2
        while time.monotonic() < limit and termios.tcgetattr(self.terminal)[3] & termios.ICANON:
            time.sleep(0.01)

    def type(self, keys):
        """Sends keys to the program."""
        os.write(self.terminal, keys)

    def finish(self):
        """Waits for the end and returns the exit status."""
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = True
                return os.waitstatus_to_exitcode(status)
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:
                    pass
        self.fail("the program does not end")

    def test_ctrl_c_stops_the_answer(self):
        """Ctrl-C stops the answer, not the program; Ctrl-D ends it."""
        self.expect_prompt()
        self.type(b"Tell me a long story.\r")
        self.expect(rb"\n[^\n]*\w+ \w+ \w+")
        self.type(b"\x03")
        self.expect(rb"stopped")
        self.expect_prompt()
        self.type(b"/stats\r")
        self.expect(rb"wrote \d+")
        self.expect_prompt()
        self.type(b"Another one.\r")
        self.expect(rb"\n[^\n]*\w+ \w+ \w+")
        self.type(b"\x03")
        self.expect(rb"stopped")
        self.expect_prompt()
        self.type(b"\x04")
        self.assertEqual(self.finish(), cli.DONE)

    def test_ctrl_c_clears_the_line(self):
        """At the prompt Ctrl-C drops what was typed."""
        self.expect_prompt()
        self.type(b"/frobnicate")
        self.expect(rb"frobnicate")
        self.type(b"\x03")
        self.expect_prompt()
        self.type(b"/stats\r")
        self.expect(rb"wrote 0")
        self.type(b"\x03")
        self.expect_prompt()
        self.type(b"/quit\r")
        self.assertEqual(self.finish(), cli.DONE)
        self.assertNotIn(b"unknown command", self.screen)

    def test_history(self):
        """The arrow brings the last line back, where lines can be edited."""
        self.expect_prompt()
        self.type(b"/frobnicate\r")
        self.expect(rb"unknown command")
        self.expect_prompt()
        if not (self.folder / ".local/state/nibble/history").exists():
            self.skipTest("built without libedit")
        self.type(b"\x1b[A\r")
        self.expect(rb"unknown command /frobnicate")
        self.expect_prompt()
        self.type(b"\x04")
        self.assertEqual(self.finish(), cli.DONE)
