"""Hostile submissions of the small assignment, by class: what they put in the place of honest answers.

Each attack stands in parts whose answer is wrong, so that it deserves the points of the others. They are harmless by
construction: loops and sleeps are ended by the judge's own limits, which are low in the tests, process trees and floods
are small, and nothing here is aimed at other software. {course} is the folder of a course with a gradebook.
"""

from attacks.mini import HONEST

BAD_DOUBLE = "def double(x):\n    return 7\n"
BAD_ATTEND = "def attend(q, k, v):\n    return v[:2]\n"


def in_double(body):
    """An answer to `double` that does something, and is wrong."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return {"double": f"def double(x):\n{lines}\n    return 7\n"}


def at_top(body):
    """The same, when the cell is run."""
    return {"double": f"{body}\n\n{BAD_DOUBLE}"}


def in_attend(body):
    """An answer to `attend`, which may not use `attention`, that does."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = (
        f"def attend(q, k, v):\n{lines}\n    return f(q[None], k[None], v[None], np.ones((len(q), len(k)), bool))[0]\n"
    )
    return {"attend": code}


EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __bool__(self): return True
    def __float__(self): return 6.0
    def __len__(self): return 2
    def __array__(self, *a, **k): return np.array(6.0)
    def __sub__(self, other): return 0.0
    __rsub__ = __abs__ = __sub__
    def __hash__(self): return 0
    __class__ = int
"""

ENDLESS = {
    "a loop in the function": in_double("while True: pass"),
    "a loop in the cell": at_top("while True: pass"),
    "a loop that swallows what interrupts it": in_double(
        "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\n"
        "while True:\n    try:\n        time.sleep(0.1)\n    except BaseException:\n        pass"
    ),
    "a long sleep": in_double("import time; time.sleep(1000)"),
}

EXITS = {
    "sys.exit in the function": in_double("import sys; sys.exit(0)"),
    "sys.exit in the cell": at_top("import sys; sys.exit(0)"),
    "os._exit in the function": in_double("import os; os._exit(0)"),
    "os._exit in the cell": at_top("import os; os._exit(0)"),
    "its own process killed": in_double("import os; os.kill(os.getpid(), 9)"),
    "its parent killed": in_double("import os; os.kill(os.getppid(), 9)"),
    "all processes killed that it may kill": at_top("import os; os.kill(-1, 9)"),
    "the line to the judge closed": at_top("import os; os.closerange(0, 64)"),
    "an exit handler": at_top("import atexit, os; atexit.register(os._exit, 0)"),
}

PROCESSES = {
    "thirty children that sleep": in_double(
        "import os, time\nfor _ in range(30):\n    if os.fork() == 0:\n        time.sleep(60); os._exit(0)"
    ),
    "a daemon": at_top(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n"
        "    os._exit(0)"
    ),
    "thirty threads": at_top(
        "import threading, time\n"
        "for _ in range(30): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    ),
    "another program": in_double("import subprocess; subprocess.run(['/usr/bin/id'], check=True)"),
}

FLOODS = {
    "memory that belongs to no process": in_double(
        "import os\nfiles = [os.memfd_create('x') for _ in range(30)]\nfor f in files: os.write(f, bytes(15 * 2**20))"
    ),
    "memory": in_double("x = [bytearray(b'x' * 2**20) for _ in range(400)]"),
    "the scratch folder": in_double("for i in range(9): open(f'/tmp/{i}', 'wb').write(b'x' * 2**23)"),
    "many files": in_double("f = [open(f'/tmp/{i}', 'w') for i in range(500)]"),
    "output": in_double("for _ in range(200): print('x' * 100_000)"),
    "output below Python": in_double("import os\nfor _ in range(200): os.write(1, b'x' * 100_000)"),
    "a result": {"double": "def double(x):\n    return 'x' * 20_000_000\n"},
    "a result that is deep": {
        "double": "def double(x):\n    y = []\n    for _ in range(9999): y = [y]\n    return y\n"
    },
    "a result without an end": {"double": "def double(x):\n    y = []\n    y.append(y)\n    return y\n"},
    "frames without an end": at_top(
        "import os, struct\n"
        "for fd in range(3, 20):\n    try:\n        for _ in range(500): os.write(fd, struct.pack('>Q', 2) + b'{}')\n"
        "    except OSError: pass"
    ),
    "a message": in_double("raise ValueError('x' * 20_000_000)"),
    "recursion": in_double("return double(x)"),
}

FORGERIES = {
    "a number as the cell's value": at_top("2.0"),
    "an answer on each descriptor": at_top(
        "import os, wire, struct\nd = wire.dump({{'value': 6, 'changed': None}})\n"
        "for fd in range(3, 20):\n    try: os.write(fd, struct.pack('>Q', len(d)) + d)\n    except OSError: pass"
    ),
    "the end of the part": at_top(
        "import os, wire, struct\nd = wire.dump({{'ended': 0, 'failed': {{}}, 'ready': True}})\n"
        "for fd in range(3, 20):\n    try: os.write(fd, struct.pack('>Q', len(d)) + d)\n    except OSError: pass"
    ),
    "the worker's answers replaced": at_top(
        "import worker, wire\nworker.Part.answer = lambda self, request: wire.dump({{'value': 6, 'points': 100}})"
    ),
    "an error that is none": at_top(
        "import worker\nworker.described = lambda error: {{'kinds': 5, 'text': [1], 'where': {{}}}}\n1 / 0"
    ),
    "the frames replaced by garbage": at_top("import wire\nwire.dump = lambda *a, **k: b'not JSON at all'"),
    "a pickle in the place of a frame": at_top(
        "import wire, pickle\nwire.dump = lambda *a, **k: pickle.dumps({{'value': 6}})"
    ),
    "types that no frame has": at_top(
        "import worker\n"
        'worker.Part.answer = lambda s, r: b\'{{"d": [["value", {{"a": ["|O", [1], "AAAAAAAAAAA=", true]}}]]}}\''
    ),
    "a shape larger than its data": at_top(
        "import worker\n"
        'worker.Part.answer = lambda s, r: b\'{{"d": [["value", {{"a": ["<f8", [1000000000], "", true]}}]]}}\''
    ),
    "a number of a million digits": at_top(
        "import worker\nworker.Part.answer = lambda s, r: b'{{\"d\": [[\"value\", ' + b'9' * 10**6 + b']]}}'"
    ),
}

LIARS = {
    "equal to everything": {"double": f"{EQUAL}\ndef double(x):\n    return Equal()\n"},
    "a number that is equal to everything": {
        "double": "class N(float):\n    __eq__ = lambda s, o: True\n    __sub__ = __rsub__ = lambda s, o: 0.0\n"
        "    __hash__ = float.__hash__\n\ndef double(x):\n    return N(7)\n"
    },
    "an array that is equal to everything": {
        "scaled": "class A(np.ndarray):\n    def __array_ufunc__(self, *a, **k): return np.bool_(True)\n"
        "    def __array_function__(self, *a, **k): return True\n\n"
        "def scaled(values, factor):\n    return np.zeros(3).view(A)\n"
    },
    "a list that is equal to everything": {
        "double": "class L(list):\n    __eq__ = lambda s, o: True\n"
        "    __ne__ = lambda s, o: False\n    __hash__ = None\n\n"
        "def double(x):\n    return L([1])\n"
    },
    "a class with the attributes that are asked for": {
        "counter": "class Counter:\n    def __init__(self, start): pass\n    def __getattr__(self, name): return self\n"
        "    def __call__(self, *a): return self\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
    },
}

PATCHES = {
    "numpy's comparison": at_top("np.allclose = np.isclose = np.array_equal = lambda *a, **k: True"),
    "numpy's inner comparison": at_top(
        "import numpy._core.numeric as n\nn.isclose = n.allclose = lambda *a, **k: True\n"
        "np.isfinite = lambda x: np.ones(np.shape(x), bool)"
    ),
    "the check functions": at_top(
        "import autograder.checks as c\n"
        "for n in dir(c):\n    if n.startswith('check'): setattr(c, n, lambda *a, **k: None)\n"
        "check_close = check_same = lambda *a, **k: None"
    ),
    "the code of a check function": at_top("check_close.__code__ = (lambda *a, **k: None).__code__"),
    "AssertionError": at_top("import builtins\nbuiltins.AssertionError = type('A', (Exception,), {{}})"),
    "builtins": at_top("import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.len = lambda x: 1"),
    "the compiler": at_top(
        "import builtins\nbuiltins.compile = lambda *a, **k: (lambda: 0).__code__\nbuiltins.exec = print"
    ),
    "a trace that swallows exceptions": at_top("import sys\nsys.settrace(lambda *a: None)\nsys.excepthook = print"),
    "the own-work check": {**at_top("check_own = own_work = lambda *a: (lambda *b: None)"), "attend": BAD_ATTEND},
    "IPython's hooks": at_top("get_ipython().input_transformers_cleanup.append(lambda lines: [])"),
}

READING = {
    "the sources by their path": at_top(
        "import glob\nfound = glob.glob('{course}/**', recursive=True) + glob.glob('/**/*.ipynb', recursive=True)\n"
        "exec(open(found[0]).read())"
    ),
    "the gradebook": at_top("import sqlite3\nsqlite3.connect('{course}/gradebook.db').execute('delete from grade')"),
    "another student's answers": at_top("exec(open('{course}/submitted/ann/mini.py').read())"),
    "the course's library": at_top("from course_lib.scratch import *"),
    "the sources as a package": at_top("import autograder.source, autograder.judging.judge"),
    "the caller's frames": in_double(
        "import sys\nframe = sys._getframe()\nwhile frame is not None:\n"
        "    for name, value in list(frame.f_locals.items()):\n"
        "        if 'expected' in name: return value\n    frame = frame.f_back"
    ),
    "all objects": in_double(
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'expected' in o: return o['expected']"
    ),
    "other processes' memory": in_double(
        "import os\nfor p in os.listdir('/proc'):\n    if p.isdigit() and int(p) > 2 and p != str(os.getpid()):\n"
        "            return 6"
    ),
    "the first process": in_double("e = open('/proc/1/environ', 'rb').read()\nif b'COURSE' in e: return 6"),
    "the host's temporary folder": in_double("import glob\nif glob.glob('/tmp/course-*'): return 2 * x"),
}

GIVEN = {
    "called by its name": in_attend("f = attention"),
    "imported in the function": in_attend("from autograder.given import attention as f"),
    "imported by a name made at run time": in_attend(
        "import importlib\nf = getattr(importlib.import_module('auto' + 'grader.given'), 'atten' + 'tion')"
    ),
    "found among the modules": in_attend(
        "import sys\nf = next(m.attention for m in list(sys.modules.values()) if hasattr(m, 'attention'))"
    ),
    "found among all objects": in_attend(
        "import gc, types\nf = next(o for o in gc.get_objects()\n"
        "    if isinstance(o, types.FunctionType) and o.__name__ == 'attention' and o.__code__.co_argcount == 4)"
    ),
    "kept in a file by a part that may use it": {
        "heads": "import marshal\ntry:\n    open('/tmp/a', 'wb').write(marshal.dumps(attention.__code__))\n"
        f"except Exception: pass\n{HONEST['heads']}",
        **in_attend("import marshal, types\nf = types.FunctionType(marshal.load(open('/tmp/a', 'rb')), globals())"),
    },
}

NETWORK = {
    "a connection": in_double("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)"),
    "a name looked up": in_double("import socket\nsocket.getaddrinfo('example.org', 80)"),
    "a server": at_top("import socket\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()"),
}

NUMBERS = {
    "NaN": {"double": "def double(x):\n    return float('nan')\n"},
    "infinity": {"double": "def double(x):\n    return float('inf')\n"},
    "NaN in an array": {"scaled": "def scaled(values, factor):\n    return values * float('nan')\n"},
    "a truth value": {"double": "def double(x):\n    return True\n"},
    "a text": {"double": "def double(x):\n    return '6'\n"},
    "more points than there are": {"double": "def double(x):\n    return 1000\n\n1000"},
    "a negative score": at_top("-5"),
    "a partial score in words": at_top("'full marks'"),
}

GUESSES = {
    "the visible cases by heart": {
        "double": "def double(x):\n    return {{3: 6}}.get(x, [1, 1]) if x in (3, [1]) else 0\n"
    },
    "the seed of the hidden tests": {
        "double": "def double(x):\n    known = np.random.default_rng(11).normal(size=5).tolist()\n"
        "    return x + x if x in (3, [1]) or x in known else 0\n"
    },
    "right after the first call": {
        "double": "calls = []\n\ndef double(x):\n    calls.append(x)\n    return 2 * x if len(calls) < 3 else 0\n"
    },
}

MUTATIONS = {
    "an array": {
        "scaled": "def scaled(values, factor):\n    if not factor: raise ValueError('0')\n"
        "    values *= factor\n    return values\n"
    },
    "a list": {
        "double": "def double(x):\n    if isinstance(x, list):\n        x *= 2\n        return x[:]\n    return 2 * x\n"
    },
}

TEXTS = {
    "control characters in a message": in_double(
        "raise ValueError('\\x1b[2J\\x1b]0;owned\\x07<script>alert(1)</script>')"
    ),
    "half an emoji": in_double("return chr(0xd83d)"),
    "an exception that cannot be read": in_double("class E(Exception):\n    def __str__(self): raise self\nraise E()"),
    "a type with an odd name": in_double("return type('<b>\\x1b[31m', (), {{}})()"),
}

CASES = {
    "endless": ENDLESS,
    "exits": EXITS,
    "processes": PROCESSES,
    "floods": FLOODS,
    "forgeries": FORGERIES,
    "liars": LIARS,
    "patches": PATCHES,
    "reading": READING,
    "given": GIVEN,
    "network": NETWORK,
    "numbers": NUMBERS,
    "guesses": GUESSES,
    "mutations": MUTATIONS,
    "texts": TEXTS,
}
