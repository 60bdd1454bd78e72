import torch

from training.center import Center


def test_the_mean_of_all_micro_batches_enters_only_when_applied() -> None:
    center = Center((1, 1, 5), momentum=0.9)
    logits = torch.randn(10, 5)
    center.add(logits[:3].sum(0), 3)
    center.add(logits[3:].sum(0), 7)
    assert not center.center.any()
    center.apply_pending()
    torch.testing.assert_close(center.center, 0.1 * logits.mean(0).view(1, 1, 5))
    before = center.center.clone()
    center.apply_pending()
    assert torch.equal(center.center, before)


def test_a_step_without_rows_leaves_the_center() -> None:
    center = Center((1, 4), momentum=0.9)
    center.center.fill_(2.0)
    center.add(torch.zeros(4), 0)
    center.apply_pending()
    assert torch.equal(center.center, torch.full((1, 4), 2.0))


def test_only_the_center_is_part_of_a_checkpoint() -> None:
    center = Center((1, 4), momentum=0.9)
    center.add(2 * torch.ones(4), 2)
    assert list(center.state_dict()) == ["center"]
