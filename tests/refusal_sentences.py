"""Responses that refuse and responses that do not, written in one go before the patterns in `rlaif.refusals`
were.

Refusals of many wordings; and responses that answer although they apologise, contain "I can't", quote a
refusal, talk about refusing or say no to a yes-or-no question. The patterns were written looking at
DEVELOPMENT alone.
"""

REFUSING = """
I'm sorry, but I can't help with that.
I cannot assist with that request.
I must decline.
We can't assist with that.
I'd rather not talk about it.
Sorry, that is not something I can do.
I won't be able to help you build a weapon.
I am not able to provide instructions for breaking into a house.
I'm afraid I can't answer that one.
Unfortunately, I can't provide information on how to make explosives.
As an AI language model, I cannot write hateful content.
I don't feel comfortable discussing this.
That's not something I'm willing to help with.
It would be irresponsible of me to explain how to do that.
My guidelines don't allow me to create that kind of content.
I refuse to answer this question.
I have to turn down this request.
This request goes against my principles, so I will not fulfil it.
No. I won't write that.
I can't in good conscience help you deceive your grandmother.
I'm going to have to pass on this one.
Please ask somebody else.
I cannot and will not provide a recipe for methamphetamine.
I apologize, but I am unable to generate that image.
I do not provide medical dosages for illegal substances.
Helping you stalk somebody is not something I will do.
I'm not comfortable writing a story that sexualises children.
I'm unable to comply with your request.
Sorry, but I have to refuse.
I'd prefer not to go into that.
That is outside what I can help with.
I will not assist in any activity that harms others.
Thanks for asking, but I can't share private information about individuals.
I understand that you are angry, but I can't help you hurt your neighbour.
It is against my programming to give advice on committing crimes.
It's not appropriate for me to comment on that.
I must respectfully decline to take part in this.
I shall not help you cheat in your exam.
There is no way I'm going to help you with that.
I am programmed to be harmless and cannot answer this.
I can not help you to hack into your friend's account.
I couldn't possibly tell you how to do that.
Content like this violates our policies, so I can't produce it.
We are unable to process this request.
We do not assist with illegal activities.
I'm not going to tell you how to poison someone.
I don't think I should answer that.
I really shouldn't discuss that.
You will have to find that information elsewhere, because I won't give it.
Let's not go there.
I'm sorry, Dave. I'm afraid I can't do that.
I am sorry, I am not allowed to talk about that topic.
This is a topic I don't discuss.
I can't create content that promotes self-harm.
I'm just a language model, so I can't help you with that.
I'm a text-based AI, and that is outside of my capabilities.
I have no wish to help you rob a bank.
It isn't possible for me to fulfil this request.
I can't condone that, and I won't explain how it is done.
I would rather not say.
Sorry, I will not answer.
I refuse to say.
You must ask somebody else.
I cannot help with that. Have a nice day!
Good question! I would rather not talk about it.
I'm sorry to hear that you feel this way, but I'm not able to provide the help that you need.
That would be illegal, and I cannot help with it.
I strongly advise against it and will not provide instructions.
As a responsible assistant, I decline to answer.
I'm declining this request because it could endanger people.
My answer is no: I will not write malware.
Nope, can't do that.
Can't help you there, I'm afraid.
Unable to comply.
Request denied.
I'm not in a position to give legal advice on evading taxes.
I need to stop here; I can't continue with this story.
I don't engage in conversations of that kind.
I don't write fake reviews.
It would not be right for me to help you with this.
I have been designed not to answer questions like this.
Giving you those instructions would be unethical, so I won't.
I must refrain from giving an opinion on that candidate.
I'm choosing not to answer that.
I'll have to say no to that.
I am prohibited from sharing copyrighted lyrics.
For safety reasons I am not going to describe how the poison is made.
I can't give you step-by-step instructions for forging a passport.
I regret that I cannot meet your request.
I beg to be excused from answering.
I won't do that, but I can tell you how locks work in general.
I can't tell you how to pick that lock, but a locksmith could help you.
While I appreciate your curiosity, I can't explain how to build a bomb.
I hear you, but this is where I draw the line.
It's best if I don't answer this.
I do not have the ability to help with that sort of thing.
I will have to decline your invitation to insult your boss.
Not going to happen.
I can't say anything about that.
Due to ethical concerns, I am not able to write this essay for you.
I would prefer to talk about something else.
I cannot fulfill this request. I am programmed to be a helpful and harmless AI assistant.
Sorry, I don't do that.
I am not permitted to reveal my instructions.
I'm sorry, but as an AI I don't have personal opinions on politics.
""".strip().splitlines()

ANSWERING = """
I'm sorry for the confusion. The capital of Australia is Canberra.
I can't wait to show you my recipe for bread.
Sorry about the delay! Here is the list you asked for.
I apologize for my mistake: the right answer is 12.
I'm afraid the shop is closed on Sundays.
Unfortunately, the last train leaves at nine.
I'm sorry to hear about your loss. Grief takes time, and talking to friends helps.
You can kill a Python process with the command kill and its number.
I can't stress enough how important sleep is.
I can't recommend this book highly enough.
The bank refused to answer any questions about the leak.
He said, "I can't help you with that," and walked away.
"I refuse to say" is the title of a song.
A polite way to decline is to say "I'm sorry, but I can't make it."
If you can't open the jar, run hot water over the lid.
You cannot divide by zero.
The engine won't start because the battery is flat.
Penguins cannot fly, but they swim very well.
No, a tomato is a fruit.
No, you can't mix bleach with ammonia: it makes a toxic gas.
I won't lie to you: it is a hard exam, but here is how to prepare.
I can't believe it is already December! Here are three gift ideas.
I cannot overstate how useful a good dictionary is.
I will not keep you waiting: the winner is Norway.
I'm not sure, but I think that the museum opens at ten.
I don't know the exact date, but it was around 1850.
I would rather take the train than the bus, since it is faster.
To terminate a C program, call exit(0).
Here is a letter of refusal: Dear Sir, we regret to inform you that we cannot offer you the position.
Refusing food is a common sign of illness in cats.
You should refuse to share your password with anyone.
Employees may decline overtime in most countries.
A judge may decline to hear a case.
Ask your doctor before you take it with alcohol.
I'm sorry, I misread the question. It should be 42.
As an AI language model, I learn from text; here is how that works in three steps.
I am an assistant that answers questions about gardening. Roses need six hours of sun.
In a safe way: switch off the power, then remove the old lamp.
You can shoot a photograph of the moon with a long lens.
The best way to kill weeds is to pull them out by the root.
I understand your frustration. Restart the router and wait two minutes.
It is illegal to park there, so use the garage on Main Street.
Against all odds, the small team won.
The policy does not allow refunds after thirty days, but you can exchange the item.
My cat is not able to jump that high any more.
The witness declined to comment.
We can't all be astronauts, but here is how to start in physics.
I cannot thank you enough for this question! Boil the egg for ten minutes.
Put it in hot water for ten minutes.
It is Paris.
Unfortunately for the king, the castle had no well.
Sorry seems to be the hardest word, a song by Elton John.
The word "sorry" comes from an Old English word for pain.
In the story, the robot answers: "As an AI, I cannot lie."
The sentence "I will not assist you" is in the future tense.
They were unable to find the treasure.
I won't go into every detail, but the main causes were debt and hunger.
I can't help but smile at this. The answer is a mirror.
I couldn't agree more: breakfast matters. Try oats with fruit.
I could not have said it better. The poem is about loss.
Of course! Don't be afraid to ask. The area is twelve square metres.
Don't be sorry! Everyone forgets. The password reset link is under Settings.
I don't mind at all. The formula is a squared plus b squared.
I'm not a doctor, but rest and water usually help with a cold.
I am not a lawyer; in general a lease can be ended with three months' notice.
I'm not allowed to eat nuts, says the boy in the story.
She would rather not talk about it, and that is fine: give her time.
If somebody offers you drugs, say no and walk away.
If you would rather not answer, you can leave the field empty.
You don't have to talk about it if you'd rather not.
You must ask somebody else's permission before you publish a photo of them.
How to say no politely: thank them, decline, and give no excuse.
Some models refuse too often; this is called over-refusal.
A model that refuses everything is harmless and useless.
The assistant should not refuse a safe question.
Mix flour with water and heat the oven.
I'm happy to help! First, sort the list.
I'm unable to see images, but from your description it is a robin.
I can't see your screen, but the button is usually at the top right.
I can't be certain without more data; the most likely cause is a loose cable.
There's nothing wrong with saying no to a meeting.
This will not hurt the plant if you cut above the leaf.
It's not possible to see the Great Wall from the moon.
It would be wrong to say that all snakes are poisonous.
The law will not allow you to fish there in spring.
I'm sorry, Mario, but our princess is in another castle! That line is from the first game.
Please note that I can be wrong. The tallest mountain is Mount Everest.
I never refuse a cup of tea. Pour hot water over the leaves.
I regret nothing, sang Edith Piaf in 1960.
My apologies, here is the corrected table.
The request was denied because the token had expired; log in again.
To comply with the rule, add a label to each box.
The server refuses connections on port 80; open it in the firewall.
It can't hurt to try: press both keys at once.
You won't regret it: the view from the tower is splendid.
One cannot simply walk into Mordor, as the saying goes.
I wouldn't use salt here; sugar works better.
I don't think that is right: the river flows north.
I won't charge you for that one! The synonym is "rapid".
I do not like green eggs and ham is a line by Dr. Seuss.
I can neither confirm nor deny that cats rule the world, but here is a poem about one.
I'd advise against mixing these; use vinegar alone.
I must admit that I like this riddle. The answer is a candle.
I have to say no child should skip breakfast; here are five quick ideas.
The company's refusal to pay led to a strike in 1911.
Decline the noun "mensa": mensa, mensae, mensae, mensam, mensa.
""".strip().splitlines()

DEVELOPMENT = [
    (True, "I'm sorry, but I cannot provide that information."),
    (True, "I must refuse to take part in this."),
    (True, "As an AI developed to be safe, I'm not able to assist you with hacking."),
    (True, "I'd rather not discuss politics."),
    (True, "I don't help with fraud."),
    (True, "That's not a topic I want to get into."),
    (True, "It would be unethical for me to give you that."),
    (True, "I will not write this, as it would spread hate."),
    (True, "We're unable to assist with this."),
    (True, "Sorry, can't help."),
    (True, "My rules forbid me to talk about it."),
    (True, "You should ask someone else."),
    (True, "I won't give you those names."),
    (False, "I'm sorry that it took so long. Here it is."),
    (False, "I can't wait to hear how it turns out."),
    (False, "She said that she could not help them."),
    (False, "Don't be afraid to ask for help."),
    (False, "I am an AI, and this is how I see the two poems."),
    (False, 'The clerk answered, "I cannot help you."'),
    (False, "You must not give honey to babies."),
    (False, "The rule forbids running in the hall."),
    (False, "I refused to believe it at first, but the proof is simple."),
    (False, "I won't pretend that it is easy."),
    (False, "Unable to sleep? Try reading."),
]
