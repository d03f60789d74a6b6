"""Sentences in other languages, put together from small vocabularies, and the encodings in which pages hold them."""

# ruff: noqa: RUF001

import random

# Of each language: beginnings, subjects with their verbs, objects, endings. All fit all.
VOCABULARY: dict[str, tuple[tuple[str, ...], ...]] = {
    "de": (
        ("Nach Angaben der Behörde", "Am frühen Morgen", "Wie in den vergangenen Jahren", "Trotz aller Bedenken"),
        ("hat die Stadt", "will der neue Vorstand", "möchten die Bürgerinnen", "müssen wir alle", "plant das Museum"),
        ("über die größere Brücke", "mit den übrigen Gästen", "eine Lösung für das Problem", "an der alten Straße"),
        (
            "noch einmal gründlich sprechen.",
            "und nicht länger warten.",
            "so schnell wie möglich handeln.",
            "weiter prüfen.",
        ),
    ),
    "fr": (
        (
            "Selon les premières informations",
            "Dès le début de la journée",
            "Malgré les réserves du maire",
            "Cette année encore",
        ),
        (
            "les élèves de l'école ont",
            "le conseil général a",
            "nous avons tous",
            "une équipe de chercheurs a",
            "elle a",
        ),
        (
            "étudié la façon de vivre",
            "présenté un nouveau projet",
            "déjà trouvé une réponse à la question",
            "créé un théâtre",
        ),
        (
            "dans les quartiers du centre.",
            "pour la deuxième fois.",
            "avec l'aide de la région.",
            "où l'été est très chaud.",
        ),
    ),
    "es": (
        (
            "Según el informe publicado ayer",
            "Durante los últimos años",
            "En el corazón de la ciudad",
            "A pesar de la lluvia",
        ),
        (
            "los niños del barrio han",
            "la compañía española ha",
            "el señor Núñez ha",
            "muchas personas han",
            "también se ha",
        ),
        (
            "construido una pequeña escuela",
            "encontrado el camino más corto",
            "pedido una explicación",
            "cambiado la situación",
        ),
        (
            "para que todo siga igual.",
            "con la ayuda de sus vecinos.",
            "sin saber qué pasará mañana.",
            "en un solo año.",
        ),
    ),
    "pt": (
        ("De acordo com a direção", "Na manhã de ontem", "Não há dúvida de que", "Como já aconteceu antes"),
        ("as crianças da região", "o governo não", "a população também", "os irmãos de João", "uma associação de mães"),
        ("recebeu a informação", "pediu uma solução para a questão", "organizou a exposição", "levou à discussão"),
        ("com muita atenção.", "até ao fim do mês.", "e então voltou para casa.", "porque o coração não esquece."),
    ),
    "ru": (
        ("По словам жителей города", "Сегодня рано утром", "Несмотря на все трудности", "Как и в прошлом году"),
        ("новый директор музея", "большая группа студентов", "известный писатель", "вся наша семья", "местная газета"),
        ("долго обсуждала этот вопрос", "решила построить новый дом", "снова пришла к старому мосту", "нашла ответ"),
        (
            "и больше не хотела ждать.",
            "вместе со своими друзьями.",
            "в самом центре города.",
            "но так ничего и не сказала.",
        ),
    ),
    "el": (
        ("Σύμφωνα με την ανακοίνωση", "Νωρίς το πρωί", "Παρά τις δυσκολίες", "Όπως και πέρυσι"),
        ("οι κάτοικοι του νησιού", "ο νέος δήμαρχος", "η ομάδα των ερευνητών", "όλοι οι φίλοι μας"),
        ("αποφάσισαν να χτίσουν σχολείο", "βρήκαν μια λύση για το πρόβλημα", "μίλησαν για την παλιά γέφυρα"),
        ("και δεν περίμεναν άλλο.", "με τη βοήθεια των γειτόνων.", "στο κέντρο της πόλης.", "για δεύτερη φορά."),
    ),
    "ja": (
        ("昨日の朝早く、", "市の発表によると、", "多くの困難にもかかわらず、", "昨年と同じように、"),
        ("新しい館長は", "町の人々は", "研究者のグループは", "私たちの家族は"),
        ("古い橋について長く話し合い、", "小さな学校を建てることを決め、", "問題の答えを見つけて、", "友達と一緒に"),
        (
            "もう待たないことにしました。",
            "街の中心へ戻りました。",
            "何も言いませんでした。",
            "二回目の会議を開きました。",
        ),
    ),
    "zh": (
        ("根据昨天公布的报告，", "今天早上，", "尽管困难很多，", "和去年一样，"),
        ("新任馆长", "城里的居民", "一组研究人员", "我们全家"),
        ("决定在河边建一所小学校，", "就那座老桥讨论了很久，", "终于找到了问题的答案，", "同朋友们一起"),
        ("不想再等下去了。", "回到了市中心。", "什么也没有说。", "召开了第二次会议。"),
    ),
    "ko": (
        ("어제 발표된 보고서에 따르면", "오늘 아침 일찍", "많은 어려움에도 불구하고", "작년과 마찬가지로"),
        ("새 관장은", "마을 사람들은", "연구자들은", "우리 가족은"),
        ("오래된 다리에 대해 이야기하고", "작은 학교를 짓기로 결정하고", "문제의 답을 찾아서", "친구들과 함께"),
        ("더 이상 기다리지 않았다.", "도시의 중심으로 돌아왔다.", "아무 말도 하지 않았다.", "두 번째 회의를 열었다."),
    ),
    "ar": (
        ("وفقا للتقرير الذي نشر أمس", "في الصباح الباكر", "على الرغم من كل الصعوبات", "كما في العام الماضي"),
        ("قرر سكان المدينة", "أعلن المدير الجديد", "بدأت مجموعة من الباحثين", "أرادت العائلة كلها"),
        ("بناء مدرسة صغيرة", "الحديث عن الجسر القديم", "البحث عن حل للمشكلة", "العودة إلى البيت"),
        ("مع جميع الأصدقاء.", "في وسط المدينة.", "من دون أي انتظار.", "للمرة الثانية."),
    ),
}
# Language, encoding of the bytes, charset of the header, charset in the page ("" where it says nothing).
PAGES = (
    ("de", "utf-8", "utf-8", "utf-8"),
    ("fr", "utf-8", "", "iso-8859-1"),  # wrongly declared
    ("de", "cp1252", "iso-8859-1", ""),
    ("es", "cp1252", "", "windows-1252"),
    ("pt", "iso-8859-1", "", ""),
    ("ru", "cp1251", "", "windows-1251"),
    ("ru", "koi8-r", "koi8-r", ""),
    ("ru", "cp1251", "", ""),
    ("el", "iso-8859-7", "", "iso-8859-7"),
    ("ja", "shift_jis", "", "Shift_JIS"),
    ("ja", "euc_jp", "EUC-JP", ""),
    ("ja", "iso2022_jp", "", "iso-2022-jp"),
    ("zh", "gb18030", "", "gb2312"),
    ("zh", "big5hkscs", "big5", ""),
    ("zh", "utf-8", "", ""),
    ("ko", "euc_kr", "", "euc-kr"),
    ("ar", "cp1256", "windows-1256", ""),
    ("fr", "utf-16", "", ""),
)


def sentences(language: str, rng: random.Random, count: int = 5) -> str:
    """A paragraph of so many sentences."""
    space = "" if language in ("ja", "zh") else " "
    return space.join(space.join(rng.choice(words) for words in VOCABULARY[language]) for _ in range(count))
