"""The command line itself: help, flags and their values."""
import re

import cli

COMMANDS = ("run", "chat", "tokenize", "eval", "compare", "inspect", "bench", "devices")


class UsageTest(cli.Case):
    """Nothing here needs a model."""

    def refuse(self, *arguments):
        """Runs a wrong command line and returns the error."""
        return self.bad(cli.USAGE, *arguments)

    def test_no_arguments(self):
        """Alone, the program explains itself, as an error."""
        result = cli.nibble()
        self.assertEqual((result.status, result.out), (cli.USAGE, b""))
        self.assertIn("usage: nibble", result.message)

    def test_help(self):
        """Help is data: it goes to standard output, and fits a terminal."""
        overview = self.good("--help").text
        self.assertEqual(self.good("-h").text, overview)
        for command in COMMANDS:
            self.assertIn("\n  %s " % command, overview)
            text = self.good(command, "--help").text
            self.assertEqual(self.good(command, "-h").text, text)
            self.assertIn("usage: nibble %s" % command, text)
            self.assertLessEqual(max(len(line) for line in text.splitlines()), 100)

    def test_help_needs_no_operand_and_checks_nothing(self):
        """Help wins over what is missing."""
        self.good("run", "MODEL", "--greedy", "--help")

    def test_every_listed_flag_is_known(self):
        """What the help names can be typed, with the value that it asks for."""
        for command in COMMANDS:
            for flag, value in re.findall(r"(--[a-z-]+) ?([A-Z1a-z|,:\[\]23]*)",
                                          self.good(command, "--help").text.split("\n\n")[1]):
                message = cli.nibble(command, flag).message
                self.assertNotIn("unknown flag", message, (command, flag, value))

    def test_version(self):
        """The version is the library's."""
        self.assertRegex(self.good("--version").text, r"\Anibble \d+\.\d+\.\d+\n\Z")
        self.assertEqual(self.good("run", "--version").text, self.good("--version").text)

    def test_unknown_command(self):
        """A wrong command is answered with those that there are."""
        message = self.refuse("frobnicate")
        for command in COMMANDS:
            self.assertIn(command, message)
        self.assertIn("did you mean run?", self.refuse("rnu"))

    def test_unknown_flag(self):
        """The nearest flag of the command is suggested."""
        self.assertIn("did you mean --greedy?", self.refuse("run", "M", "--gredy"))
        self.assertIn("did you mean --top-k?", self.refuse("run", "M", "--top_k=3"))
        self.assertIn("see 'nibble run --help'", self.refuse("run", "M", "--frobnicate"))
        self.assertIn("unknown flag -x", self.refuse("run", "M", "-x"))
        self.refuse("run", "M", "--" + "x" * 10000)

    def test_flag_of_another_command(self):
        """A flag that exists elsewhere is said to be elsewhere."""
        self.assertIn("--top-k is not for 'nibble inspect'",
                      self.refuse("inspect", "M", "--top-k=1"))

    def test_missing_values(self):
        """A flag at the end, and a value where none belongs."""
        self.assertIn("--temp needs a value", self.refuse("run", "M", "-p", "x", "--temp"))
        self.assertIn("-n needs a value", self.refuse("run", "M", "-p", "x", "-n"))
        self.assertIn("--greedy takes no value", self.refuse("run", "M", "--greedy=1"))

    def test_numbers_are_strict(self):
        """A number is all of its text, and within its range, which the message tells."""
        for flag, value, told in (("--temp", "warm", "from 0 to 100"), ("--temp", "1.0x", "from 0"),
                                  ("--temp", "", "from 0"), ("--temp", "nan", "from 0"),
                                  ("--temp", "-1", "from 0"), ("--temp", "0x1", "from 0"),
                                  ("--top-p", "1.5", "from 0.001 to 1"),
                                  ("--top-k", "-1", "from 0"), ("--top-k", "1.5", "from 0"),
                                  ("--threads", "0", "from 1 to 1024"),
                                  ("--threads", "1025", "from 1 to 1024"),
                                  ("-n", "0", "from 1"), ("-n", "99999999999999999999", "from 1"),
                                  ("--ctx", "1e3", "from 4"), ("--ctx", " 8", "from 4"),
                                  ("--seed", "18446744073709551616", "below 2^64"),
                                  ("--gpu-layers", "some", "nor auto")):
            message = self.refuse("run", "M", "-p", "x", flag, value)
            self.assertIn("'%s'" % value, message)
            self.assertIn(told, message)

    def test_choices(self):
        """A word that is none of a flag's words."""
        self.assertIn("auto|cpu|vulkan[:N]", self.refuse("run", "M", "-p", "x", "--device", "gpu"))
        for device in ("vulkan:", "vulkan:x", "vulkan:-1", "vulkan:4294967296", "cpu:0",
                       "vulkan:0,", "vulkan:0,1", "vulkan:0,cpu", ",vulkan:0", "vulkan,vulkan:1",
                       ",".join(["vulkan:0"] * 17)):
            self.refuse("run", "M", "-p", "x", "--device", device)
        self.assertIn("half|all", self.refuse("eval", "M", "-f", "x", "--score", "none"))
        for kv in ("f8", "", "k=f16,", "k=f16,k=f16", "x=f16", "k=,v=f16", "f16,f16",
                   "i4,transform=", "i4,transform=no", "i4,transform=on,transform=on"):
            self.assertIn("such as k=f16,v=i8", self.refuse("run", "M", "-p", "x", "--kv", kv))

    def test_split(self):
        """As many numbers as GPUs, all positive."""
        flags = ("run", "M", "-p", "x", "--device", "vulkan:0,vulkan:1", "--split")
        for split in ("", "1,", ",1", "1,,2", "0,1", "-1,2", "nan,1", "1e99,1", "a,b", "1;2"):
            self.assertIn("such as 3,1", self.refuse(*flags, split))
        for split in ("1", "1,2,3"):
            self.assertIn("for 2 devices", self.refuse(*flags, split))
        self.assertIn("for 0 devices", self.refuse("run", "M", "-p", "x", "--split", "1,2"))

    def test_token_ids(self):
        """A list of ids is digits and commas."""
        for ids in ("1,", ",1", "1,,2", "a", "1;2", "-1", "2147483648", "1 2"):
            self.assertIn("token ids", self.refuse("run", "M", "--prompt-ids", ids))
        self.assertIn("token ids", self.refuse("tokenize", "M", "--detokenize", "1.5"))

    def test_operands(self):
        """One model, and one only."""
        for command in COMMANDS[:-1]:
            self.assertIn("no model", self.refuse(command))
            self.assertIn("no model", self.refuse(command, ""))
        self.assertIn("unexpected argument 'N'", self.refuse("inspect", "M", "N"))
        self.assertIn("unexpected argument 'M'", self.refuse("devices", "M"))

    def test_what_excludes_each_other(self):
        """Flags that cannot be meant together."""
        self.assertIn("only one of", self.refuse("run", "M", "-p", "x", "-f", "y"))
        self.assertIn("only one of", self.refuse("run", "M", "-p", "x", "--prompt-ids", "1"))
        self.assertIn("only one of", self.refuse("tokenize", "M", "-p", "x", "--detokenize", "1"))
        self.assertIn("no prompt", self.refuse("run", "M"))
        self.assertIn("no text", self.refuse("tokenize", "M"))
        self.assertIn("no text", self.refuse("eval", "M"))
        self.assertIn("--greedy excludes", self.refuse("run", "M", "-p", "x", "--greedy",
                                                       "--temp=1"))
        self.assertIn("needs --chat", self.refuse("run", "M", "-p", "x", "--system", "y"))
        self.assertIn("--chat needs a text", self.refuse("run", "M", "--prompt-ids=1", "--chat"))
        self.assertIn("--stop: the text is empty", self.refuse("run", "M", "-p", "x", "--stop="))
        for flag in ("--batch=1", "--ctx=64", "--shared=2", "--profile"):
            self.assertIn("--host-cost excludes", self.refuse("bench", "M", "--host-cost", flag))
        self.assertIn("--cpu-mask needs --measure", self.refuse("devices", "--cpu-mask=scalar"))
        self.assertIn("--vulkan-mask needs --measure",
                      self.refuse("devices", "--vulkan-mask=baseline", "--self-test=off"))

    def test_forms_of_flags(self):
        """Values may follow in the same argument; a later flag wins; "--" ends the flags."""
        model = cli.tiny()
        wanted = self.good("run", model, "--prompt-ids", "5,6", "-n", "3", "--greedy").text
        for form in (("--prompt-ids=5,6", "-n3", "--greedy"),
                     ("--tokens=3", "--greedy", "--prompt-ids", "5,6"),
                     ("--prompt-ids=9", "--prompt-ids=5, 6", "-n", "1", "-n", "3", "--greedy")):
            self.assertEqual(self.good("run", model, *form).text, wanted)
        self.assertEqual(
            self.good("run", "--prompt-ids=5,6", "-n3", "--greedy", "--", model).text, wanted)
        self.assertIn("-model", self.bad(cli.FAILED, "inspect", "--", "-model"))
