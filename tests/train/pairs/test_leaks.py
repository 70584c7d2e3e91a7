import pytest

from drift_train.pairs.leaks import find_leak


@pytest.mark.parametrize(
    "reply",
    [
        "I apologize for the confusion. Berlin has 3.7 million inhabitants.",
        "You're right, and here it is:\n1. apple",
        "Here is the revised version:\n\nDear Sir",
        "Sure! Here's an updated list of fruits: …",
        "As my previous response missed the date, I add it here.",
        "Thank you for the clarification. The answer is 4.",
        "I cannot paint, but as I mentioned before, I can describe it.",
        "As explained earlier, it is a term of geometry.",
        "Here is a longer form of the list I gave earlier:",
        "The best way joins the ideas suggested earlier.",
        "Given your correction, the total is 12.",
        "下面是更正的代码：",
        "Извините, я не хотела никого обидеть.",
        "抱歉，我之前的回答有误。答案是四。",
        "申し訳ありません、先ほどの回答は誤りでした。",
        "죄송합니다, 혼란을 드려서. 답은 4입니다.",
        "Извините за путаницу. Ответ: 4.",
        "Désolé pour l'erreur. La réponse est 4.",
        "Lamento el error anterior. Son cuatro.",
        "Desculpe pela confusão. São quatro.",
        "Mi dispiace per l'errore. Sono quattro.",
        "Entschuldigung für den Fehler. Es sind vier.",
        "Przepraszam za pomyłkę. Cztery.",
        "Hata için özür dilerim. Dört.",
        "أعتذر عن الخطأ. الجواب أربعة.",
        "Xin lỗi vì sự nhầm lẫn. Bốn.",
        "Maaf atas kesalahan sebelumnya. Empat.",
        "x" * 500 + " I hope this revised version is better.",
    ],
)
def test_a_reply_that_speaks_of_an_earlier_one_is_found(reply: str) -> None:
    assert find_leak(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I am sorry to hear that you are ill. Rest and drink.",
        "Here is the list of fruits:\n1. apple",
        "Dear Anna, please excuse my absence on Monday.",
        "With what you mentioned earlier, it is a bird.",
        "The previous president was born in 1961.",
        "To fix the error, update the driver to the latest version.",
        "抱歉，我不能帮助你。",
        "К сожалению, у меня нет доступа к интернету.",
        "Désolé, je ne peux pas répondre à cette question.",
        "x" * 500 + " in the previous response " + "y" * 500,  # the middle is not looked at
    ],
)
def test_a_refusal_or_an_ordinary_reply_is_no_leak(reply: str) -> None:
    assert find_leak(reply) is None
