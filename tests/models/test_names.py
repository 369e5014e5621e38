"""What ``--model`` may be."""

import subprocess
import sys

import pytest

from fastait.models.names import FIXED, check_pretrained, parse
from fastait.runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "kind", "depth", "widen_factor", "name"),
    [
        ("wrn-28-10", "wrn", 28, 10, ""),
        ("wrn-10-1-silu", "wrn-silu", 10, 1, ""),
        ("wrn-70-16-relu", "wrn-relu", 70, 16, ""),
        ("wrn-10-2-s2", "wrn-s2", 10, 2, ""),
        *((name, name, 0, 0, "") for name in FIXED),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "timm", 0, 0, "vit_tiny_patch16_224.augreg_in21k"),
        ("torchvision:mobilenet_v2", "torchvision", 0, 0, "mobilenet_v2"),
        ("nets:make", "own", 0, 0, "nets:make"),
        ("my.nets:Net.small", "own", 0, 0, "my.nets:Net.small"),
    ],
)
def test_names(text, kind, depth, widen_factor, name):
    found = parse(text)
    assert (found.kind, found.depth, found.widen_factor, found.name) == (kind, depth, widen_factor, name)
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet18", "'resnet18' is no network: wrn-D-W, .*Did you mean 'resnet-18'"),
        ("PreActResNet18", "Did you mean 'preact-resnet-18'"),
        ("WRN-28-10", "Did you mean 'wrn-28-10'"),
        ("WideResNet-28-10-swish", "Did you mean 'wrn-28-10-silu'"),
        ("wrn-11-1", "6n [+] 4 .* got 11"),
        ("wrn-4-1", "6n [+] 4 .* got 4"),
        ("wrn-10-0", "from 1 to 1000, got 0"),
        ("wrn-10-1-gelu", "is no network"),
        ("WideResNet-10-2-S2", "Did you mean 'wrn-10-2-s2'"),
        ("vit_tiny", "is no network: .*timm:NAME"),
        ("", "is no network"),
        ("a\nb", r"'a\\nb' is no network"),
        ("timm:", "must be timm:NAME"),
        ("timm:hf-hub:someone/net", "must be timm:NAME with a name that timm registers"),
        ("torchvision:a/b", "must be torchvision:NAME"),
        ("folder/net.py:make", "in the folder that it lies in: net:make"),
        ("net.py:make", "in the folder that it lies in: net:make"),
        ("a:b:c", "is no network"),
        (7, "must be a text such as wrn-10-1, got int"),
    ],
)
def test_what_is_no_name(text, said):
    with pytest.raises(InputError, match=said) as caught:
        parse(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "said"), [("wrn-10-1", "not for --model wrn-10-1"), ("nets:make", "load its weights")]
)
def test_pretrained_weights_are_those_of_libraries(name, said):
    with pytest.raises(InputError, match=said):
        check_pretrained(parse(name))
    check_pretrained(parse("timm:resnet10t"))


def test_names_need_no_torch():
    code = "import sys, fastait.models.names as n; n.parse('wrn-10-1'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
