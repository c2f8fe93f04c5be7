"""Test that redacted strings contain none of the identities that were planted in them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from envforge.base.redact import KINDS, Identity, quoted, redact_texts, redactor
from tests.support.transcripts import ROOT

WHO = Identity(user="elvira", hosts=("gpu-box-7.lab.example",), home="/data/people/elvira")
UUID = "12345678-aaaa-bbbb-cccc-1234567890ab"
LETTERS_36 = "abcdefghijklmnopqrstuvwxyz0123456789"
# none of them was ever valid
TOKENS = (
    f"ghp_{LETTERS_36}", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijk",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", f"ghs_{LETTERS_36}", f"github_pat_11_{LETTERS_36}", "ASIAIOSFODNN7EXAMPLE",
    f"AIza{LETTERS_36[1:]}", f"ya29.{LETTERS_36}", f"GOCSPX-{LETTERS_36}", "xoxb-123456789012-abcdefghij",
    "xapp-1-A123-456-abcdefghij", f"glpat-{LETTERS_36[:20]}", f"pypi-AgEIcHlwaS5vcmc{LETTERS_36}",
    f"sk-proj-A{LETTERS_36}", f"sk-ant-api03-A{LETTERS_36}", f"npm_{LETTERS_36}", f"nvapi-{LETTERS_36}{LETTERS_36}",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
    "-----BEGIN RSA PRIVATE KEY-----\\nMIIEpAIBAAKCAQEA\\n-----END RSA PRIVATE KEY-----",
)  # fmt: skip
# each with the part that must not remain
IDENTITIES = (
    ("/home/max.muster/cats", "max"), ("/export/home/max/cats", "max"), ("/home//max/x", "max"), ("/home/./max", "max"),
    ("/Users/max/cats", "max"), (r"C:\Users\max\cats", "max"), ("c:/users/max/x", "max"), (r"C:\\Users\\max", "max"),
    (r"C:\Users\max muster\x", "muster"), ("%2Fhome%2Fmax%2Fx", "max"), ("-I/home/max/x", "max"), ("~max/x", "max"),
    ("/mnt/c/Users/max/x", "max"), ("file:///home/max/x", "max"), ("/root/secret.so", "root"), ("LOGNAME=max", "max"),
    ('"user": "max"', "max"), ("uid=1000(max)", "max"), ("/tmp/torchinductor_max/x", "max"), ("HOSTNAME=max-1", "max"),
    ("GPU-5ec7e711", "5ec7e711"), (f"GPU{UUID}", "12345678"), ("127.0.0.1,10.20.30.40", "10.20"),
    ("ip-10-20-30-40.ec2.internal", "10-20"), ("ec2-203-0-113-25.compute-1.amazonaws.com", "203-0"),
    ("NCCL_COMM_ID=10.20.30.40", "10.20"), ("addr==10.20.30.40", "10.20"), ("ip10.20.30.40", "10.20"),
    ("fe80::1ff:fe23:4567:890a%eth0", "fe80"), ("mac=0a1b2c3d4e5f", "0a1b"), ("enx0a1b2c3d4e5f", "0a1b"),
    ("ether 0:1b:2c:3:4e:5f", "1b:2c"), ("max@company", "company"), ("max%40company.example", "company"),
    ("mailto:max@company.example", "company"), ("max@[10.20.30.40]", "10.20"), ("Service Tag: 7XK9ZZ2", "7XK9ZZ2"),
    ("x/home/max/y", "max"), ("gpu-box-7-lab-example", "lab"), ("hostname: max", "max"), ("<user>max</user>", "max"),
    ("a0b1c2d3e4f541238a9b0c1d2e3f4a5b", "a0b1c2"), ("addr:::ffff:0:0", "ffff"), ("--token hunter2", "hunter2"),
    ("Authorization: Bearer abc", "abc"), ('password "hunter2"', "hunter2"), ("ip_10_20_30_40", "10_20"),
    ("https://max:hunter2@index.example/simple", "hunter2"), ("ID_SERIAL_SHORT=S4EWNX0M1", "S4EW"),
    ("serial: QWERTYUI", "QWERTY"), ("/home/lab1/max/x", "max"), ("/home/physics/max/.local/x", "max"),
    ("/ihome/bio/max/x", "max"), ("/rhome/max/x", "max"), ("/u/max/x", "max"), ("wlx0a1b2c3d4e5f", "0a1b"),
    ("max@müller.example", "ller"), ('"max m"@company.example', "company"), ("kim&#x40;company.example", "company"),
    ("node_guid: b859:9f03:0012:3456", "b859"), ("Port GUID: 0xb8599f0300123456", "b859"),
    (r"/home/ACME\max/x", "max"), (r"/home/acme\max/x", "max"), (r"USER=ACME\max", "max"),
    (r"user: AzureAD\max", "max"), ("SLURM_JOB_NODELIST=box-[01-04,07]", "box"), ("SLURM_NODELIST=boxa1,boxb2", "boxb"),
    ("host=box-07", "box"), ("BatchHost=box07", "box"), ("--host=box.lab", "lab"), ("Hostname box-07", "box"),
    ("hostname   : box.lab", "lab"), ("node box18", "box"), ("nodes box[001-016]", "box"), ("ssh box-07", "box"),
    ("connect to box-07:29500", "box"), ("i-0abcdef1234567890", "0abc"), ("node gpu18", "gpu18"), ("user 'max'", "max"),
    ("User max logged in", "max"), ("sudo: max : TTY=pts/0", "max"), ("session opened for user max(uid=0)", "max"),
    ("user max is not in the sudoers file", "max"), ("-rw-r--r-- 1 max staff 7 x", "max"), ("7(a),8(max)", "max"),
    ("arn:aws:iam::1:user/max", "max"), ("/afs/cell.example/user/m/max/x", "max"), ("/afs/cell.example/u/max", "cell"),
    ("/lustre/scratch/max/x", "max"), ("/gpfs/fs1/scratch/max/x", "max"), ("/scratch/m/max/x", "max"),
    ("/gpfs/u/max/x", "max"), ("/scratch/user/max/x", "max"), ("/mnt/lustre2/people/max/x", "max"),
    ("/scratch/max/miniconda3/bin", "max"), ("/tmp/ray-max/x", "max"), ("/tmp/pytest-of-max/x", "max"),
    ("/run/media/max/usb", "max"), ("/var/mail/max", "max"), *((token, token[-9:]) for token in TOKENS[:3]),
)  # fmt: skip
# none of them identifies anyone
FACTS = (
    "driver 580.126.09", "cudnn 9.1.0.70", "nvidia-cudnn-cu12==9.1.0.70", "NVML version 12.580.126.09", "12:34:56",
    "0000:10:00.0", "00000000:10:00.0", "127.0.0.1:29500", "std::bad_alloc", "c10::Error", "torch 2.7.1+cu118",
    "GPU-bound", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "~/cats", "only root may", "sha256 0123abcd",
    "Xid (PCI:0000:10:00): 79", "https://download.pytorch.org/whl/cu118", "/usr/share/homebrew/x", "torch 2.13.0+cu130",
    "libcudnn.so.9.1.0.70", "nvidia_cudnn_cu12-9.1.0.70-py3-none-any.whl", "CUDNN_VERSION=9.1.0.70", "cufft 10.3.5.147",
    '"version": "10.20.30.40"', "`x 4.10.0.84` is not locked", "expected `4.10.0.82`, found `4.10.0.84`", "x==1.1.0.84",
    "md5 0123456789abcdef0123456789abcdef", "memcpy@GLIBC_2.14", "actions/checkout@main", "uvx envforge@latest",
    "MIG-1g.10gb", "NVIDIA RTX A6000", "2024-01-02-03-04-05", "std::fade", "GPU-added", "serialized 123456 bytes",
    "host memory", "--host=x86_64-conda-linux-gnu", "user site", "pytorch/pytorch@sha256:0123456789abcdef",
    "md5 a0b1c2d3e4f541238a9b0c1d2e3f4a5b", "tiktoken==0.8.0", "tiktoken >=0.3.0", "bytes_per_token: 2.0", "512 tokens",
    "token expected", "a tokenizer 2", "https://conda.example/t/<TOKEN>/x", "unexpected token '}' in line 2",
    "password=$PASSWORD", "commit 0123456789ab", "serial CONSOLE", "10de:20b0:10de:1450", "/usr/u/cats",
    "HKLM\\Software", r"NVIDIA\CUDA", r"FAILED\nsecond", r"lib\torch\x.dll", "BIN\\python.exe", "node 1 of 4",
    "nodes=4", "node v18.19.0", "host x86_64", "host gpu0", "connect to cuda12", "GPU[0-7]", "hosts 3", "hf_transfer",
    "HOST=x86_64-conda-linux-gnu", "user code is not found", "user: could not open it", "user defined", "`user` site",
    "sk-learn-contrib", "github_pat_", "gl-headers", "glibc-headers-x86_64-linux-2", "eyJ.a.b", "AKIA", "ACME",
    "pypi-mirror-of-the-whole-company-1", "-----BEGIN CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----", "-rw-r--r--",
    "/scratch/imagenet/train", "/lustre/datasets/x", "/scratch/d/imagenet", "/tmp/ray/session_2026", "/tmp/ray_results",
    "/gpfs/projects/x", "/scratch/shared/data/x", "ssh is missing", "owner: root", "the host is not reachable",
    "hostname resolution failed", "task-1234567890-ABCDEFGHIJKL", "nodelist is empty", "file:///opt/x", "SM\\x80",
    "NODE_RANK=0", "localhost:29500", "host=localhost",
)  # fmt: skip


class Value(Struct, frozen=True):
    text: str
    inside: tuple[dict[str, list[str]], int]


LETTERS = "bdkvwyz"  # no word of a text or of a stand-in consists of them
SURROUNDINGS = (
    "found {} here", "{}", "a={};", "({})", "'{}'", "x `{}` y", '{{"key": "{}"}}', "<b>{}</b>", "see {}.", "{}, {}",
    "\t{}\n", "http://h.example/?a {}", "\x1b[31m{}\x1b[0m", "a\x1b[1;38;5;9m{}\x1b[Kb", r"\x1b[1m{}\u001b[0m",
    "\x1b]0;title\a{}\x1b(B",
)  # fmt: skip


def words(fewest: int) -> st.SearchStrategy[str]:
    return st.text(LETTERS, min_size=fewest, max_size=8)


def spelled(draw: st.DrawFn, parts: list[str]) -> str:
    text = draw(st.sampled_from(("-", "_", ".", "", " "))).join(parts)
    return draw(st.sampled_from((text, text.upper(), text.title())))


# what must not remain, with texts that contain it
OF_ANYONE: dict[str, tuple[st.SearchStrategy[str], tuple[str, ...]]] = {
    "home of another": (
        words(3),
        ("/home/{}/x", "/home/{}", "/home/lab/{}/x", "/home/x/{}/miniconda3/bin", "/ihome/x/{}", "/rhome/{}/x",
         "/u/{}/x", "/nethome/{}/x", "/mnt/home/chem-grp/{}"),
    ),
    "address": (
        st.ip_addresses(network="32.0.0.0/4").map(str) | st.ip_addresses(network="10.0.0.0/8").map(str),
        ("{}", "MASTER_ADDR={}", "addr:{} failed", "connect to {}.", "{}-{}", "tcp://{}:80", "{}/24", "_{}_"),
    ),
    "guid": (
        st.binary(min_size=8, max_size=8).flatmap(lambda each: st.sampled_from((each.hex(), each.hex(":", 2)))),
        ("node_guid: {}", "sys_image_guid:\t{}", "Port GUID: 0x{}", "GUID={}"),
    ),
    "email": (
        st.builds("{}{}.org".format, words(3), st.sampled_from(("", "é", "-ü"))),
        ("max@{}", "max%40{}", "mailto:max@{}", "<max@{}>", "a,max.m+x@{}", "Author:max@{}", '"max m"@{}', "m&#x40;{}"),
    ),
}  # fmt: skip


@st.composite
def planted(draw: st.DrawFn) -> tuple[Identity, str, str]:
    """Return an identity, a text that contains it or an unknown one, and the part that must not remain."""

    def one(*forms: str) -> str:
        return draw(st.sampled_from(forms))

    user, host = [draw(words(4)), draw(words(2))], [draw(words(2)), draw(words(2)), str(draw(st.integers(1, 99)))]
    domain = f"{draw(words(3))}.example"
    who = Identity(user=".".join(user), hosts=(f"{'-'.join(host)}.{domain}",), home=f"/data/{draw(words(4))}/work")
    kind = one("user", "host", "domain", "home", "address 6", "mac", "uuid", "serial", "secret", *OF_ANYONE)
    if kind == "user":
        part = spelled(draw, user)
        text = one("{}", "/tmp/torchinductor_{}/x", "/tmp/pip-{}/x:/tmp/runs-{}", "~{}/x", "uid=1000({}) gid=1000({})")
        text = one(text, "USER={}", "owned by {}", "%2Fscratch%2F{}", r"b'\n{}\n'", "{}@node", "{}'s", "-tmp-{}-x")
    elif kind == "host":
        part, text = spelled(draw, host), one("{}", "core-{}.log", "ssh://{}:22", "HOST={}", r"\\{}\share")
    elif kind == "domain":
        part, text = one(domain, domain.upper()), one("node-8.{}", "http://a.b.{}/x", "mirror={}")
    elif kind == "home":
        part = who.home.split("/")[2]
        text = one(who.home, who.home.upper(), who.home.replace("/", "//"), who.home.replace("/", "\\")) + "/cats"
    elif kind == "address 6":
        address = draw(st.ip_addresses(v=6).filter(lambda each: not each.is_loopback and int(each) > 2**32))
        part = one(str(address), str(address.exploded), str(address).upper())
        text = one("{}", "MASTER_ADDR={}", "addr:{} failed", "connect to {}.", "[{}]:80", "inet6 {}/64", "{}%eth0")
    elif kind == "mac":
        digits = draw(st.binary(min_size=6, max_size=6).filter(lambda each: any(c in "abcdef" for c in each.hex())))
        name = one("enx{}", "wlx{}", "mac {}")
        part = one(digits.hex(), digits.hex(":"), digits.hex("-"), digits.hex(".", 2), digits.hex(":").upper())
        text = one("{}", "ether {}", "MAC={}", "HWaddr:{}") if "." in part else one("{}", "ether{}", "MAC={}", "mac:{}")
        text = name if part.isalnum() else text
    elif kind == "uuid":
        uuid = str(found := draw(st.uuids() | st.uuids(version=4) | st.uuids(version=1)))
        part = one(uuid, uuid.upper(), uuid.replace("-", "_"), uuid.replace("-", ""))
        text = one("GPU-{}", "gpu-{}", "GPU_{}", "vGPU-{}", "MIG-{}", "MIG-GPU-{}/1/0", "uuid: {}", '"uuid": "{}"')
        is_whole = len(part) > 32 or (found.version or 9) <= 5
        text = one(text, "{}", "id {}") if is_whole else text
    elif kind == "serial":
        part = draw(st.from_regex(r"1[0-9]{12}|[A-Z]{2}[0-9]{5}[A-Z]|[A-Z]{8}", fullmatch=True))
        text = one(
            "GPU Serial Number {}", '"serial": "{}"', "gpu_serial: {}", "<serial>{}</serial>", "S/N {}", "SN: {}"
        )
        clear = one("gpuSerial={}", "| Serial | {} |", r"\"serial\": \"{}\"", "serial : {}", "ID_SERIAL_SHORT={}")
        text = clear if part.isalpha() else one(text, clear, "Serial No. {}")
    elif kind == "secret":
        part = draw(words(4)) + one("", "1")
        label = one("password", "PASSWORD", "--token", "HF_TOKEN", "api_key", "AWS_SECRET_ACCESS_KEY", "X-Api-Key")
        forms = [f"{label}={{}}", f"{label}: {{}}", f"{label} = 'x {{}}'", f'"{label}": "{{}} x"', f'{label} "x{{}}"']
        text = one(*forms, rf"\"{label}\": \"{{}} x\"", "Authorization: Bearer {}", "--password {}", "token=x,{};y")
        text = one(text, "password {}", "the password is {}") if part.endswith("1") else text
    else:
        parts, texts = OF_ANYONE[kind]
        part, text = draw(parts), one(*texts)
    return who, draw(st.sampled_from(SURROUNDINGS)).replace("{}", text).format(*[part] * 4), part


@settings(max_examples=400)
@given(planted())
def test_no_planted_identity_is_left(found: tuple[Identity, str, str]) -> None:
    who, text, part = found
    clean = redactor(who)
    value = redact_texts(Value(text, ({"all": [text]}, 1)), clean)
    assert part.lower() not in str(value).lower(), text
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize("text", [*TOKENS, "Owner: max", r"ACME\\nmax", r"DESKTOP-1\max"])
def test_identity_is_removed_in_any_place(text: str) -> None:
    for around in ("{}", "found `{}`, here", '{{"key": "{}"}}', "a={};", "x\n{}\n", r"'x\n{}'"):
        clean = redactor(WHO)(around.format(text))
        assert text.rpartition("max")[1] not in clean or not text.endswith("max"), clean
        assert text[-9:] not in clean, clean


@pytest.mark.parametrize("between", [" ", ", ", "`", "'", " (", ")\n", "\x1b[0m"])
@pytest.mark.parametrize("first", IDENTITIES, ids=lambda pair: pair[0])
def test_no_identity_is_left_beside_another(first: tuple[str, str], between: str) -> None:
    for second in IDENTITIES:
        text = redactor(WHO)(between.join(["found", first[0], second[0], "here"]))
        assert first[1] not in text, text
        # a URL doesn't end at a quote, so it contains the start of what is there
        is_split = between == "'" and ":" in first[0] and " " in second[0]
        assert is_split or second[1] not in text, text


@pytest.mark.parametrize(
    ("user", "text", "shown"),
    [
        ("max", "/tmp/pip-max/x, /scratch/max, max memory", "/tmp/pip-USER/x, /scratch/USER, max memory"),
        ("max", "arg_max, owned by MAX, ~max", "arg_max, owned by USER, ~USER"),
        ("torch", "torch in /usr/lib/torch, user torch", "torch in /usr/lib/torch, user USER"),
        ("root", "only root may", "only root may"),
        ("a", "a file in /a/b", "a file in /a/b"),
        ("user1", "user 1 is user1", "user 1 is USER"),
        ("python3", "/usr/bin/python3", "/usr/bin/python3"),
        ("jürgen", "J\u0075\u0308RGEN, j%C3%BCrgen", "USER, USER"),
    ],
)
def test_short_name_or_word_of_the_field_needs_its_place(user: str, text: str, shown: str) -> None:
    assert redactor(Identity(user=user))(text) == shown


def test_common_name_of_a_host_needs_its_number() -> None:
    assert redactor(Identity(hosts=("gpu-1", "node")))("GPU 1 of node, gpu-1") == "GPU 1 of node, HOST"


def test_name_of_a_field_tells_what_its_value_is() -> None:
    value = {
        "packages": {"opencv": "4.10.0.84"},
        "version": "10.20.30.40",
        "variables": {"MASTER_ADDR": "10.20.30.40"},
        "serial": 1320220012345,
        "uuid": "0123456789abcdef0123456789abcdef",
        "digest": "0123456789abcdef0123456789abcdef",
        "token": "x y",
        "/home/max": 1,
        "/home/eva": 2,
    }
    assert redact_texts(value, redactor(WHO)) == {
        "packages": {"opencv": "4.10.0.84"},
        "version": "10.20.30.40",
        "variables": {"MASTER_ADDR": "IP"},
        "serial": "SERIAL",
        "uuid": "UUID-redacted-1",
        "digest": "0123456789abcdef0123456789abcdef",
        "token": "SECRET",
        "~": 1,
        "~-2": 2,
    }


def test_documentation_lists_each_kind() -> None:
    text = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    assert [kind.what for kind in KINDS if f"| {kind.what} |" not in text] == []


@pytest.mark.parametrize(
    "part",
    [
        "/", "/a", "-", "..", "1.", "a@", "a-", "0a:", "/home/a ", "serial: 1", "%2F", "gpu-box-", "a:", "token='", ")",
        "\x1b[", "\x1b]", "\x1b[m", "\\x1b[0", "\\", '"@', "home/lab/", "a\x1b[m:", "eyJ", "eyJ-",
        "eyJabcde.", "sk-", "sk-A1", "xoxb-", "glpat-", "SG.", "-----", "A\\", "hosts=a,",
        "-----BEGIN A PRIVATE KEY-----",
        "nodelist:", "nodes a[", "host=a[1", "hostname a.", "user '", "user: ", "sudo: ", "-rw-r--r-- 1 ", "/scratch/",
        "/lustre", "/scratch/aaa", "/afs/a/u/", "/home/ACME\\", "1(a),", "/home/a\\",
        *(identity for identity, _ in IDENTITIES if ":/" not in identity),
    ],
)  # fmt: skip
def test_long_text_ends(part: str) -> None:
    text = f"token={part * (96_000 // max(1, len(part)))}"
    began = time.process_time()
    redactor(WHO)(text)
    assert time.process_time() - began < 5


@given(st.lists(st.sampled_from(FACTS), min_size=1, max_size=4))
def test_facts_are_kept(facts: list[str]) -> None:
    text = "; ".join(facts)
    assert redactor(WHO)(text) == text


@pytest.mark.parametrize("text", ["9.1.0.70", "4.10.0.84", "11.7.0.0", "8.8.8.8", "9.9.9.9", "8.34.200.9", "10.1.2.3"])
def test_a_string_that_is_a_version_is_kept(text: str) -> None:
    assert redactor(WHO)(text) == (text if text in {"9.1.0.70", "4.10.0.84", "11.7.0.0"} else "IP")


@given(st.text())
def test_any_string_can_be_redacted(text: str) -> None:
    redactor(WHO)(text)


@pytest.mark.parametrize(
    ("path", "shown"), [("~/a", "~/a"), ("~/my project", "~/'my project'"), ("/a b", "'/a b'"), ("/a", "/a")]
)
def test_quoted_paths_keep_the_home_directory(path: str, shown: str) -> None:
    assert quoted(path) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/scratch/lovelace-runs/lib:/x/lovelace_2", "/scratch/USER-runs/lib:/x/USER_2"),
        ("/scratch/lovelaces/lib", "/scratch/lovelaces/lib"),
        ("/data/home/.cache/x", "~/x"),
        ("/home/ada/digits/.conda/bin", "~/digits/.conda/bin"),
        ("/data/home/lovelace/.cache/x", "~/.cache/x"),
    ],
)
def test_name_of_user_is_redacted_in_any_path(text: str, shown: str) -> None:
    assert redactor(Identity(user="lovelace", hosts=(), home="/data/home/lovelace"))(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cudnn \x1b[36m8.34.0.9\x1b[0m", "cudnn 8.34.0.9"),
        ("\x1b[33mUSER\x1b[0m=\x1b[35mmax\x1b[0m", "USER=USER"),
        ("el\x1b[1mvira, 10.1.\x1b[31m\x1b[K2.3", "USER, IP"),
    ],
)
def test_escape_sequences_separate_no_label_from_its_value(text: str, shown: str) -> None:
    assert redactor(WHO)(text) == shown


@pytest.mark.parametrize("home", ["/home/physics/elvira", "/mnt/users/a/b/elvira"])
def test_homes_of_others_have_the_levels_of_yours(home: str) -> None:
    assert redactor(Identity(home=home))(f"{home.replace('elvira', 'max')}/x") == "~/x"
