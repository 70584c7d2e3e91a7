"""Finds replies that speak of an earlier reply: "I apologize for the confusion", "here is the revised version".

A guided sample may answer the complaint instead of the request. The training prompt does not show the complaint, so such
a pair would teach the model to apologise for nothing. Only the beginning and the end of a reply are searched, where
such sentences stand, for their usual wording in the languages that are most frequent in chat logs. Plain regular
expressions: precise rather than complete (`tests/real/` measures both on real replies).
"""

from __future__ import annotations

import re

_HEAD_CHARACTERS, _TAIL_CHARACTERS = 240, 160  # parts of a reply that are searched

_PATTERNS = [
    # English
    r"\b(apologi[sz]e|apolog(y|ies)|sorry)\b[^.!?\n]{0,40}\b(confusion|mistake|error|oversight|misunderst\w+|"
    r"mix-?up|inaccura\w+|incorrect|previous|earlier|missing|overlook\w*|not (being|providing|including|"
    r"following))",
    r"\b(apologi[sz]e|sorry) if (my|the|i)\b",
    r"\b(my|your) (previous|earlier|prior|last) (response|answer|reply|message|attempt|version|output|"
    r"suggestion)s?\b",
    r"\bthe (previous|earlier) (response|answer|reply|attempt)s?\b",
    r"\bhere(['’]s| is| are) (the|a|an|your|my|some) ([\w-]+ ){0,2}?"
    r"(revised|corrected|updated|improved|modified|fixed|rewritten|reworked|adjusted|amended|refined)\b",
    r"\b(revised|corrected|updated|improved|rewritten) (version|response|answer|reply)\b",
    r"\bas (i |we )?(have |had |['’]ve )?(mentioned|said|explained|noted|discussed|stated|described) "
    r"(\w+ )?(before|earlier|previously)\b",
    r"(?<!you )\b(mentioned|explained|discussed|suggested|given) (earlier|previously|before)\b",
    r"\bi (have )?(previously )?(provided|gave|suggested|wrote|proposed|listed) (earlier|previously|before|above)\b",
    r"\b(given|with|per) your (clarif\w+|correct(ed|ion)|update)\b",
    r"^\W*(you['’]re|you are) (absolutely |completely |totally |quite )?(right|correct)\b",
    r"\bthank(s| you) for (the |your )?(feedback|clarif\w+|correct\w+|pointing|catching|bringing)",
    r"\bas (you )?(pointed out|requested|suggested|mentioned)\b[^.\n]{0,40}\b(previous|earlier|feedback|"
    r"comment)",
    r"\b(based on|according to|given|taking into account|considering) (your|the) (feedback|comments?|"
    r"complaint|critique)\b",
    r"\bi(['’]ve| have)? (made|fixed|corrected|revised|updated|rewritten|rewrote|addressed)\b[^.\n]{0,30}"
    r"\b(issue|mistake|error|feedback|change|correction|concern|version|response|answer)",
    # Chinese, Japanese, Korean
    r"(抱歉|对不起|對不起|不好意思)[^。！\n]{0,20}(错误|錯誤|误解|誤解|混淆|困惑|疏忽|之前|刚才|剛才|上一|遗漏|没有|沒有)",
    r"(之前|刚才|剛才|上一个|上一個|上次)的?(回答|回复|回覆|答案|版本|代码|代碼)",
    r"(修改|修正|更正|改进|改進|更新|修订|修訂)(后|後|过|過)?的(版本|回答|答案|代码|代碼|文章|内容|內容)",
    r"^\W*(您|你)(说|說)得对|(您|你)(说|說)的对",
    r"(申し訳|すみません|失礼)[^。\n]{0,25}(誤|間違|混乱|前回|先ほど|勘違)|(前回|先ほど|先程)の(回答|返信|説明)|修正(した|版|後)",
    r"(죄송|미안)[^.\n]{0,25}(혼란|오해|실수|잘못|오류|이전)|이전 (답변|응답)|수정(된|한) (버전|답변)",
    # Russian, Ukrainian
    r"(извин|прошу прощения|прост[иі]те|вибач|перепрошую)[^.!?\n]{0,50}"
    r"(ошиб|недоразумен|путаниц|недопонима|неточност|предыдущ|помилк|непорозум|попередн)",
    r"(извин|прост[иі]те|вибач)[^.!?\n]{0,15}\bне (хотел|хот[іи]|имел|понял|зрозум)",
    r"(предыдущ|прошл|попередн)\w+ (ответ|верси|сообщени|код|відповід|повідомлен)",
    r"(исправленн|обновл[её]нн|переработанн|доработанн|виправлен|оновлен)\w* (верси|вариант|ответ|код|текст|"
    r"версі|варіант)",
    r"^\W*(да, )?(вы|ты) (абсолютно |совершенно )?прав[ыа]?\b",
    # French, Spanish, Portuguese, Italian
    r"(excus|désolé|pardon)[^.!?\n]{0,50}(confusion|erreur|malentendu|oubli|précédent|incompr)",
    r"(réponse|version|message) précédente?\b|\bversion (révisée|corrigée|améliorée|mise à jour)|"
    r"^\W*vous avez raison",
    r"(disculp|perd[óo]n|lo siento|lamento)[^.!?\n]{0,50}(confusi|error|malentendido|equivoc|anterior|omisi)",
    r"(respuesta|versi[óo]n|mensaje) anterior\b|versi[óo]n (revisada|corregida|mejorada|actualizada)|"
    r"^\W*tienes? raz[óo]n",
    r"(desculp|perd[ãa]o|lamento|sinto muito)[^.!?\n]{0,50}(confus|erro|equ[íi]voco|mal-?entendido|engano|"
    r"anterior)",
    r"(resposta|mensagem|vers[ãa]o) anterior\b|vers[ãa]o (revisada|corrigida|melhorada|atualizada)",
    r"(scus|mi dispiace|perdon)[^.!?\n]{0,50}(confusione|errore|malinteso|equivoco|precedente)",
    r"(risposta|versione) precedente\b|versione (rivista|corretta|migliorata|aggiornata)|^\W*hai ragione",
    # German, Dutch, Polish, Turkish
    r"(entschuldig|verzeih|sorry|tut mir leid)[^.!?\n]{0,50}(verwirrung|fehler|missverständnis|versehen|"
    r"vorherig|irrtum)",
    r"(vorherig|vorig|letzt|ersten?)e?[nrs]? (antwort|version|nachricht)|"
    r"(überarbeitet|korrigiert|verbessert|aktualisiert)e[nrs]? (version|antwort|fassung)|^\W*(du hast|"
    r"sie haben) recht",
    r"(excuses|sorry|spijt)[^.!?\n]{0,50}(verwarring|fout|vergissing|misverstand|vorige)|vorige (antwoord|"
    r"versie)",
    r"przepraszam[^.!?\n]{0,50}(błąd|zamieszanie|pomyłk|nieporozumienie|poprzedni)|poprzedni\w* (odpowied|"
    r"wersj)",
    r"özür[^.!?\n]{0,50}(karışıklık|hata|yanlış|önceki)|(yanlış|hata|karışıklık)[^.!?\n]{0,40}özür|"
    r"önceki (yanıt|cevap)",
    # Arabic, Vietnamese, Indonesian
    r"(أعتذر|نعتذر|عذر|آسف)[^.!?\n]{0,40}(الخطأ|خطأ|الالتباس|ارتباك|سوء الفهم|السابق)|(الإجابة|الرد|"
    r"النسخة) السابق",
    r"xin lỗi[^.!?\n]{0,50}(nhầm lẫn|sai|lỗi|hiểu lầm|thiếu sót|trước)|câu trả lời trước",
    r"\bmaaf[^.!?\n]{0,50}(kebingungan|kesalahan|kekeliruan|salah|sebelumnya)|(jawaban|versi) sebelumnya",
]
_LEAK = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE)


def find_leak(reply: str) -> str | None:
    """Return the words by which a reply speaks of an earlier one, or None."""
    reply = reply.strip()
    head, tail = reply[:_HEAD_CHARACTERS], reply[_HEAD_CHARACTERS:][-_TAIL_CHARACTERS:]
    found = _LEAK.search(head) or _LEAK.search(tail)
    return found.group(0).strip() if found else None
